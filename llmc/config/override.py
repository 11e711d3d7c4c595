"""`--set a.b=c`: one value of a configuration replaced from the command line, with the types that YAML gives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from llmc.config.document import MAX_BYTES, MAX_DEPTH, Document, KeyPath, parse
from llmc.config.words import shown
from llmc.errors import ConfigError
from llmc.log import one_line


class Option(str):
    """`a.b=c` that another option than `--set` stands for; errors name that one."""

    place: str

    def __new__(cls, text: str, place: str) -> Option:
        option = super().__new__(cls, text)
        option.place = place
        return option


def apply_overrides(document: Document, overrides: Iterable[str]) -> None:
    """Apply each `a.b=c` in order; a list's items go by number, sections that are missing are made."""
    for override in overrides:
        _apply(document, override)


def _apply(document: Document, override: str) -> None:
    place = override.place if isinstance(override, Option) else f"--set {one_line(override, 120)}"
    dotted, equals, text = override.partition("=")
    keys = dotted.strip().split(".")
    if not equals or not all(keys):
        raise ConfigError(
            f"{place}: this is not of the form key.key=value; write for example --set calib.sample_steps=4"
        )
    if len(keys) > MAX_DEPTH or len(override) > MAX_BYTES:
        most = f"at most {MAX_DEPTH} keys and {MAX_BYTES} characters"
        raise ConfigError(f"{place}: {most} can be set in this way; write it into the file")
    inner: dict[KeyPath, str] = {}
    value = parse(text, place, inner)
    section: Any = document.values
    path: KeyPath = ()
    for key in keys[:-1]:
        step = _step(section, key, path, place)
        if isinstance(section, dict) and section.get(key) is None:
            section[key] = {}
        section = section[step]
        path = (*path, step)
        document.places.setdefault(path, place)
    last = _step(section, keys[-1], path, place)
    section[last] = value
    path = (*path, last)
    document.forget(path)
    document.places[path] = place
    document.places.update({(*path, *keys): place for keys in inner})


def _step(section: Any, key: str, path: KeyPath, place: str) -> str | int:
    """The key as this section or list takes it."""
    name = ".".join(map(str, path))
    if isinstance(section, dict):
        return key
    if not isinstance(section, list):
        raise ConfigError(
            f"{place}: {name} is {shown(section)}, not a section; set all of it: --set '{name}={{{key}: ...}}'"
        )
    if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) < len(section)):
        there = f"items 0 to {len(section) - 1}" if section else "no items"
        raise ConfigError(f"{place}: {name} is a list with {there}, and {key} is none of them; set the list as a whole")
    return int(key)
