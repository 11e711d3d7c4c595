"""How errors speak of names: what was probably meant, and what there is."""

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice
from typing import Any

import yaml

from llmc.log import one_line

LONGEST = 60  # characters of a value that are shown
NEAR = 100  # characters of a word that is compared with others


def suggest(word: object, words: Iterable[str]) -> str:
    """`did you mean calib? ` or nothing; letter case and the dash-underscore confusion do not count."""
    folded = {_fold(known): known for known in words}
    near = get_close_matches(_fold(str(word)[:NEAR]), folded, n=1, cutoff=0.6)
    return f"did you mean {folded[near[0]]}? " if near else ""


def choice(word: object, words: Iterable[str]) -> str:
    """What to say about a word that is none of `words`."""
    known = list(words)
    return f"{suggest(word, known)}allowed: {', '.join(known)}"


def shown(value: Any) -> str:
    """A found value as the YAML would write it, cut to a readable length."""
    if isinstance(value, dict):
        keys = ", ".join(one_line(str(key), LONGEST) for key in islice(value, LONGEST))
        text = f"a section with {keys or 'no keys'}"
    elif isinstance(value, list | tuple):
        text = f"[{', '.join(shown(item) for item in islice(value, LONGEST))}]"
    elif isinstance(value, str):
        start = value[: LONGEST + 1]
        text = start if start and start.isprintable() and _reads_as_text(start) else repr(start)
    else:
        text = "empty" if value is None else str(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def _reads_as_text(word: str) -> bool:
    """Whether YAML takes a word for text without quotes; '121' and 'True' it does not."""
    tag: str = yaml.SafeLoader("").resolve(yaml.ScalarNode, word, (True, False))  # type: ignore[no-untyped-call]
    return tag == "tag:yaml.org,2002:str"


def _fold(word: str) -> str:
    return word.lower().replace("-", "_")
