"""Numbers in a configuration that somebody else wrote."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmc.errors import LlmcError
from llmc.files.json_text import FileObject
from llmc.files.words import shown

MOST_BLOCKS = 256  # of a network; the deepest that are known have about half as many
LARGEST = 2**31 - 1


def source_of(values: Mapping[str, Any]) -> str:
    """The file that a configuration was read from, as far as it is known."""
    return str(values.path) if isinstance(values, FileObject) else "the network's config.json"


def is_whole(value: object, least: int = 1, most: int = LARGEST) -> bool:
    """Whether a value is a whole number, and not a bool, in these bounds."""
    return type(value) is int and least <= value <= most


def whole_number(
    values: Mapping[str, Any], key: str, refusal: type[LlmcError], least: int = 1, most: int = LARGEST
) -> int:
    """The number that a key holds."""
    found = values.get(key)
    if type(found) is int and least <= found <= most:
        return found
    says = f"says {key}: {shown(repr(found))}" if key in values else f"has no {key}"
    raise refusal(
        f"{source_of(values)} {says}; it must be a whole number from {least} to {most}: take the file from the release"
    )
