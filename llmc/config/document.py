"""A YAML file as plain values, with the line of every key; what could hurt or mislead is refused here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import yaml

from llmc.errors import ConfigError

MAX_BYTES = 1_000_000
MAX_DEPTH = 50
MAX_VALUES = 10_000  # after aliases are expanded: a few nested aliases can mean millions of values

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Source:
    """Where a configuration came from: its file, and the place of each key in it (or the `--set` that gave it)."""

    path: Path
    places: Mapping[KeyPath, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what a translation of the file wants known
    words: Mapping[KeyPath, KeyPath] = field(default_factory=dict)  # a key of ours -> what the file calls it

    def where(self, keys: KeyPath) -> str:
        """The place of a key, or of the nearest section that is there."""
        return next((self.places[keys[:n]] for n in range(len(keys), 0, -1) if keys[:n] in self.places), str(self.path))

    def said(self, keys: KeyPath) -> KeyPath:
        """A key as the file calls it."""
        return next((self.words[keys[:n]] + keys[n:] for n in range(len(keys), 0, -1) if keys[:n] in self.words), keys)


@dataclass
class Document:
    """The values, and the place of each of them."""

    path: Path
    values: dict[str, Any]
    places: dict[KeyPath, str]
    notes: list[str] = field(default_factory=list)
    words: dict[KeyPath, KeyPath] = field(default_factory=dict)

    def as_yaml(self) -> str:
        """The values as a file of their own."""
        text = yaml.safe_dump(self.values, sort_keys=False, allow_unicode=True, width=110)
        return f"# {self.path.name}, in the words of llmc.\n{text}"

    def source(self) -> Source:
        return Source(self.path, self.places, tuple(self.notes), self.words)


def read_document(path: Path) -> Document:
    """Read a YAML file that must hold a section."""
    places: dict[KeyPath, str] = {}
    values = parse(_read_text(path), str(path), places)
    if values is None:
        raise ConfigError(
            f"{path} is empty; a configuration has the sections model, calib and quant: start from one in configs/"
        )
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}:1: it holds {_kind(values)}; a configuration is a section with the keys model, calib, quant, ..."
        )
    return Document(path, values, places)


def parse(text: str, name: str, places: dict[KeyPath, str]) -> Any:
    """The values of a YAML text; `name` is what errors call it. Fills `places`."""
    try:
        _check_depth(text, name)
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        return None if root is None else _Values(name, places).of(root, ())
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_explain_syntax(error, name)) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{name}:{line}: the character {error.character!r} cannot stand in YAML; delete it") from None


def _read_text(path: Path) -> str:
    if path.is_dir():
        inside = sorted(file.name for file in path.glob("*.yaml"))
        raise ConfigError(f"{path} is a folder; name one YAML file{' in it: ' + ', '.join(inside) if inside else ''}")
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; {_nearby(path)}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; name a YAML file that can be") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(
            f"{path} has {len(raw)} bytes; a configuration has a few thousand, {MAX_BYTES} at most: is it another file?"
        )
    if b"\0" in raw:
        raise ConfigError(f"{path} is a binary file; a configuration is YAML text: is it another file?")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path}:{line}: the byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None


def _nearby(path: Path) -> str:
    there = sorted(file.name for file in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
    near = get_close_matches(path.name, there, n=1)
    if near:
        return f"did you mean {path.parent / near[0]}?"
    return f"in {path.parent} there are {', '.join(there)}" if there else "the configurations that ship are in configs/"


def _check_depth(text: str, name: str) -> None:
    """Before `compose`, which recurses once for each level."""
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            line = event.start_mark.line + 1 if event.start_mark else 1
            raise ConfigError(
                f"{name}:{line}: values are nested deeper than {MAX_DEPTH} levels; a configuration needs about 6"
            )


class _Values:
    """Builds plain values from nodes, afresh at each use of an alias, so that an override changes one place only."""

    def __init__(self, name: str, places: dict[KeyPath, str]) -> None:
        self.name = name
        self.places = places
        self.count = 0
        self.open: list[yaml.Node] = []  # the collections we are inside of
        self.scalars = yaml.SafeLoader("")

    def of(self, node: yaml.Node, keys: KeyPath) -> Any:
        self.count += 1
        if self.count > MAX_VALUES:
            self._refuse(
                node, f"aliases expand to more than {MAX_VALUES} values; write the values out where they are needed"
            )
        if len(keys) > MAX_DEPTH:
            self._refuse(
                node, f"aliases nest values deeper than {MAX_DEPTH} levels; write the values out where they are needed"
            )
        if node in self.open:
            self._refuse(node, "an anchor contains its own alias, so it has no end; write the values out")
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        self.open.append(node)
        value: Any = self._mapping(node, keys) if isinstance(node, yaml.MappingNode) else self._sequence(node, keys)
        self.open.pop()
        return value

    def _mapping(self, node: yaml.MappingNode, keys: KeyPath) -> dict[str, Any]:
        if node.tag != "tag:yaml.org,2002:map":
            self._refuse(node, f"the tag {node.tag} is not allowed; leave it out")
        lines: dict[str, int] = {}
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._key(key_node)
            line = key_node.start_mark.line + 1
            if key in lines:
                self._refuse(
                    key_node, f"`{key}` stands twice in this section, first in line {lines[key]}; keep one of them"
                )
            lines[key] = line
            self.places[(*keys, key)] = f"{self.name}:{line}"
            values[key] = self.of(value_node, (*keys, key))
        return values

    def _sequence(self, node: yaml.Node, keys: KeyPath) -> list[Any]:
        if node.tag != "tag:yaml.org,2002:seq":
            self._refuse(node, f"the tag {node.tag} is not allowed; leave it out")
        values = []
        for index, item in enumerate(cast(yaml.SequenceNode, node).value):
            self.places[(*keys, index)] = f"{self.name}:{item.start_mark.line + 1}"
            values.append(self.of(item, (*keys, index)))
        return values

    def _key(self, node: yaml.Node) -> str:
        if node.tag == "tag:yaml.org,2002:merge":
            self._refuse(node, "`<<` merges are not read; write the keys out")
        key = self._scalar(node) if isinstance(node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            found = f"`{node.value}`" if isinstance(node, yaml.ScalarNode) else "a list or a section"
            self._refuse(node, f"{found} is used as a key; keys are words")
        return cast(str, key)

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        try:
            return self.scalars.construct_object(node)
        except (yaml.constructor.ConstructorError, ValueError):
            return self._refuse(
                node,
                f"`{node.value}` cannot be read as {node.tag.removeprefix('tag:yaml.org,2002:')}; write a plain value",
            )

    def _refuse(self, node: yaml.Node, problem: str) -> Any:
        raise ConfigError(f"{self.name}:{node.start_mark.line + 1}: {problem}")


def _explain_syntax(error: yaml.MarkedYAMLError, name: str) -> str:
    problem, context = error.problem or "it is not YAML", error.context or ""
    # an unclosed bracket is noticed lines below the one where it stands
    mark = error.context_mark if "flow" in context else error.problem_mark or error.context_mark
    place = f"{name}:{mark.line + 1}" if mark else name
    if "\\t" in problem:
        return f"{place}: there is a tab; YAML is indented with spaces: replace the tab"
    found = f"{context}: {problem}" if context else problem
    return f"{place}: {found}; check the indentation, colons and brackets of that line and the one above"


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else f"the single value {value!r}"
