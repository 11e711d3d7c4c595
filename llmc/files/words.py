"""Names that a file gives, in a message: as short as a line can bear, and without characters that a terminal obeys."""

from __future__ import annotations

from collections.abc import Sequence

LONGEST = 120  # characters of a name; the longest names of tensors have about a hundred
SHOWN = 3


def shown(name: object) -> str:
    """A name, or the beginning of it."""
    text = str(name)
    text = text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"
    return text if text.isprintable() else ascii(text)[1:-1]


def some(names: Sequence[object]) -> str:
    """The first few of them."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(shown(name) for name in names[:SHOWN]) + more
