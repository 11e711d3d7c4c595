"""JSON, within bounds: so large and so deep as no file of ours or of a model is, and each key once."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmc.errors import LlmcError
from llmc.files.regular import read_file
from llmc.files.words import some

MOST_BYTES = 64 * 2**20  # tokenizers of many languages have up to half of it
MOST_LEVELS = 64  # of lists and objects in one another
SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")  # half of a character


class FileObject(dict[str, Any]):
    """The keys and values of a file, which know where they were read."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        super().__init__(values)
        self.path = path


class NotJson(ValueError):
    """Why a text is no JSON within the bounds, to be said after "is no JSON: "."""


def parse_json(text: bytes) -> Any:
    """What a text says; a NotJson tells why it says nothing."""
    try:
        value = json.loads(text.decode("utf-8"), object_pairs_hook=_with_each_key_once)
    except RecursionError:
        raise NotJson(f"it is nested deeper than {MOST_LEVELS} levels") from None
    except NotJson:
        raise
    except ValueError as error:  # of JSON, of UTF-8, or of a number with thousands of digits
        raise NotJson(str(error).partition(";")[0]) from error
    if levels_of(value) > MOST_LEVELS:
        raise NotJson(f"it is nested deeper than {MOST_LEVELS} levels")
    if SURROGATE.search(text):
        _check_characters(value)
    return value


def parse_object(text: bytes) -> dict[str, Any]:
    """The keys and values of a JSON text that must hold an object."""
    value = parse_json(text)
    if not isinstance(value, dict):
        raise NotJson(f"it holds a {type(value).__name__}, not keys with values")
    return value


def read_json(path: Path, refusal: type[LlmcError]) -> Any:
    """What a file says."""
    try:
        return parse_json(read_file(path, MOST_BYTES, refusal))
    except NotJson as error:
        raise refusal(f"{path} is no JSON: {error}; copy or download it again") from error


def read_object(path: Path, refusal: type[LlmcError]) -> FileObject:
    """The keys and values of a file."""
    value = read_json(path, refusal)
    if not isinstance(value, dict):
        raise refusal(f"{path} holds a {type(value).__name__}, not keys with values; copy or download it again")
    return FileObject(value, path)


def read_object_if_there(path: Path, refusal: type[LlmcError]) -> FileObject | None:
    """The keys and values of a file; None if nothing of that name is there."""
    return read_object(path, refusal) if path.exists() or path.is_symlink() else None


def object_in(values: Mapping[str, Any], key: str) -> dict[str, Any]:
    """The object that a key holds; empty if it holds none."""
    found = values.get(key)
    return found if isinstance(found, dict) else {}


def levels_of(value: Any) -> int:
    """How many lists and objects lie in one another."""
    count, level = 0, [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        count += 1
        inside: list[Any] = []
        for item in level:
            inside += item.values() if isinstance(item, dict) else item
        level = inside
    return count


def _with_each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
        raise NotJson(f"it has more than once: {some(twice)}")
    return found


def _check_characters(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise NotJson("it has half of a character, such as \\ud800, in a text") from None
