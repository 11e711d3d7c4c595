"""How errors speak of names: what was probably meant, and what there is."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

import yaml


def suggest(word: object, words: Iterable[str]) -> str:
    """`did you mean calib? ` or nothing; letter case and the dash-underscore confusion do not count."""
    folded = {_fold(known): known for known in words}
    near = get_close_matches(_fold(str(word)), folded, n=1, cutoff=0.6)
    return f"did you mean {folded[near[0]]}? " if near else ""


def choice(word: object, words: Iterable[str]) -> str:
    """What to say about a word that is none of `words`."""
    known = list(words)
    return f"{suggest(word, known)}allowed: {', '.join(known)}"


def shown(value: Any) -> str:
    """A found value as the YAML would write it, cut to a readable length."""
    if isinstance(value, dict):
        text = f"a section with {', '.join(map(str, value)) if value else 'no keys'}"
    elif isinstance(value, list | tuple):
        text = f"[{', '.join(shown(item) for item in value)}]"
    elif isinstance(value, str):
        text = value if value and value.isprintable() and _reads_as_text(value) else repr(value)
    else:
        text = "empty" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _reads_as_text(word: str) -> bool:
    """Whether YAML takes a word for text without quotes; '121' and 'True' it does not."""
    tag: str = yaml.SafeLoader("").resolve(yaml.ScalarNode, word, (True, False))  # type: ignore[no-untyped-call]
    return tag == "tag:yaml.org,2002:str"


def _fold(word: str) -> str:
    return word.lower().replace("-", "_")
