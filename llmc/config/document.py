"""A YAML file as plain values, with the line of every key; what could hurt or mislead is refused here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

import yaml

from llmc.errors import ConfigError
from llmc.log import one_line

MAX_BYTES = 200_000
MAX_DEPTH = 50
MAX_WRITTEN = 5_000  # keys and values
MAX_VALUES = 10_000  # after aliases are expanded: a few that nest can mean millions
MAX_CHARACTERS = 1_000_000  # of all values, after aliases are expanded
MAX_INTEGER = 2**64  # no number that means something here is larger
PLAIN = ("str", "int", "float", "bool", "null", "timestamp")  # the kinds of values that stand without a tag

KeyPath = tuple[str | int, ...]


@dataclass(frozen=True)
class Source:
    """Where a configuration came from: its file, and the place of each key in it (or the `--set` that gave it)."""

    path: Path
    places: Mapping[KeyPath, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what a translation of the file wants known
    words: Mapping[KeyPath, KeyPath] = field(default_factory=dict)  # a key of ours -> what the file calls it
    bases: tuple[Path, ...] = ()  # the files that it is built on

    @property
    def folders(self) -> list[Path]:
        """Where relative inputs may lie: the folders of the file, and of those that it is built on."""
        return list(dict.fromkeys(path.parent for path in (self.path, *self.bases)))

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
    bases: list[Path] = field(default_factory=list)

    def as_yaml(self) -> str:
        """The values as a file of their own, with all that it is built on."""
        text = yaml.safe_dump(self.values, sort_keys=False, allow_unicode=True, width=110)
        on = [f"# Built on {', '.join(one_line(base.name) for base in self.bases)}.\n"] if self.bases else []
        return "".join([f"# {one_line(self.path.name)}, in the words of llmc.\n", *on, text])

    def source(self) -> Source:
        """What errors need to know of it."""
        return Source(self.path, self.places, tuple(self.notes), self.words, tuple(self.bases))

    def forget(self, keys: KeyPath) -> None:
        """Drop the places and the words of a key, and of all below it: something else comes there."""
        self.places = {place: line for place, line in self.places.items() if place[: len(keys)] != keys}
        self.words = {ours: theirs for ours, theirs in self.words.items() if ours[: len(keys)] != keys}


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
        loader = _Loader(text, name)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{name}:{line}: the character U+{ord(text[error.position]):04X} cannot stand in YAML; delete it"
        ) from None
    try:
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise ConfigError(_explain_syntax(error, name)) from None
    except (ValueError, OverflowError):  # of an escape such as \U00110000, for which there is no character
        raise ConfigError(
            f"{name}:{loader.line + 1}: an escape or a version there has a number that is too large; mend it"
        ) from None
    return None if root is None else _Values(name, places).of(root, ())


def _read_text(path: Path) -> str:
    if path.is_dir():
        inside = sorted(file.name for file in path.glob("*.yaml"))
        raise ConfigError(f"{path} is a folder; name one YAML file{' in it: ' + ', '.join(inside) if inside else ''}")
    try:
        with path.open("rb") as file:  # which may be a pipe without an end
            raw = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; {_nearby(path)}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; name a YAML file that can be") from None
    except ValueError:  # a NUL in the name
        raise ConfigError(f"{path} is no name of a file; name a YAML file") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(
            f"{path} has more than {MAX_BYTES} bytes; a configuration has a few thousand: is it another file?"
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


class _Loader(yaml.SafeLoader):
    """Composes nodes within limits: more than a configuration can need is refused before it is read."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.file = name
        self.count = self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """One node with all that is in it; it recurses."""
        self.count += 1
        self.depth += 1
        place = f"{self.file}:{self.line + 1}"
        if self.count > MAX_WRITTEN:
            raise ConfigError(
                f"{place}: there are more than {MAX_WRITTEN} keys and values; a configuration needs about 50: "
                "is it another file?"
            )
        if self.depth > MAX_DEPTH + 1:
            raise ConfigError(
                f"{place}: values are nested deeper than {MAX_DEPTH} levels; a configuration needs about 6"
            )
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


class _Values:
    """Builds plain values from nodes, afresh at each use of an alias, so that an override changes one place only."""

    def __init__(self, name: str, places: dict[KeyPath, str]) -> None:
        self.name = name
        self.places = places
        self.count = self.characters = 0
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
            self.characters += len(node.value)
            if self.characters > MAX_CHARACTERS:
                self._refuse(node, f"aliases expand to more than {MAX_CHARACTERS} characters; write the values out")
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
            found = f"`{_short(node)}`" if isinstance(node, yaml.ScalarNode) else "a list or a section"
            self._refuse(node, f"{found} is used as a key; keys are words")
        return cast(str, key)

    def _scalar(self, node: yaml.ScalarNode) -> Any:
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        looks = self.scalars.resolve(yaml.ScalarNode, node.value, (True, False))  # type: ignore[no-untyped-call]
        if kind not in PLAIN or (kind != "str" and node.tag != looks):  # libraries fail on `!!bool maybe` in many ways
            self._refuse(node, f"the tag {node.tag} is not allowed for `{_short(node)}`; write a plain value")
        try:
            value = self.scalars.construct_object(node)
        except (ValueError, OverflowError):
            self._refuse(node, f"`{_short(node)}` cannot be read as {kind}; write a plain value")
        if isinstance(value, int) and abs(value) > MAX_INTEGER:
            self._refuse(node, f"`{_short(node)}` is a number of more than 64 bits; write a smaller one")
        return self._text(node, value) if isinstance(value, str) else value

    def _text(self, node: yaml.ScalarNode, text: str) -> str:
        """The text, where the halves of a character that JSON escapes as two have become one."""
        try:
            return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            return cast(str, self._refuse(node, f"`{_short(node)}` has half of a surrogate pair in it; delete it"))

    def _refuse(self, node: yaml.Node, problem: str) -> Any:
        raise ConfigError(f"{self.name}:{node.start_mark.line + 1}: {problem}")


def _short(node: yaml.ScalarNode) -> str:
    return one_line(node.value, 60)


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
    return "a list" if isinstance(value, list) else f"the single value {one_line(str(value), 60)}"
