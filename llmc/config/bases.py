"""`base: FILE`: a configuration that is built on others, and how they become one.

Each file is read with what it is itself built on. They are merged in the order in which they are named, and the file's
own keys come last: sections are merged key by key; anything else, a list too, is replaced by what comes later, and
`null` replaces as well. Every value keeps the line where it was written.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmc.config.document import Document, KeyPath, read_document
from llmc.config.paths import path_of
from llmc.config.words import LONGEST, shown, suggest
from llmc.errors import ConfigError
from llmc.log import one_line
from llmc.shipped import shipped

KEYS = ("base", "files")  # where they are named in a `base` section that has settings, too
MAX_DEEP = 8  # files that are built on one another
MAX_FILES = 50  # of one configuration

Translate = Callable[[Document], None]


def on_its_bases(document: Document, translate: Translate, above: tuple[Path, ...] = ()) -> Document:
    """The document, merged into what it is built on. Each file is translated before it is merged; `above` are those
    that led here."""
    translate(document)
    chain = (*above, document.path.resolve())
    whole = Document(document.path, {}, {})
    for place, path in list(_named(document)):
        if path.resolve() in chain:
            raise ConfigError(f"{place}: base: {path} is built on this file itself; leave one of the two out")
        if len(chain) == MAX_DEEP:
            raise ConfigError(f"{place}: base: more than {MAX_DEEP} files are built on one another; merge some of them")
        _merge(whole, on_its_bases(read_document(path), translate, chain))
        whole.bases.append(path)
        if len(whole.bases) > MAX_FILES:
            raise ConfigError(f"{place}: base: there are more than {MAX_FILES} files; merge some of them")
    _merge(whole, document)
    return whole


def bases_folder() -> Path:
    """Where the recipes, models and targets lie that ship."""
    return shipped() / "configs"


def described_parts() -> dict[str, dict[str, str]]:
    """The folders of files that a configuration can be built on -> each file, and what its first line says."""
    found = {}
    for name in ("recipes", "models", "targets"):
        files = sorted((bases_folder() / name).glob("*.yaml"))
        found[name] = {file.name: file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ") for file in files}
    return found


def families_that_ship() -> dict[Path, list[str]]:
    """The folder of each family -> its configurations."""
    folders = sorted((bases_folder() / "quantization/video_gen").iterdir())
    return {folder: sorted(file.name for file in folder.glob("*.yaml")) for folder in folders}


def _named(document: Document) -> Iterator[tuple[str, Path]]:
    """The files that a document is built on, each with the place where it is named; their key is taken out."""
    keys: KeyPath = KEYS[:1]
    base = document.values.get(KEYS[0])
    if isinstance(base, dict) and KEYS[1] in base:
        keys = KEYS
        files = base.pop(KEYS[1])
    elif isinstance(base, dict) or base is None:
        return
    else:
        files = document.values.pop(KEYS[0])
    places = document.source()
    document.forget(keys)
    listed = files if isinstance(files, list) else [files]
    for index, text in enumerate(listed):
        place = places.where((*keys, index))
        if not isinstance(text, str):
            what = (
                "a file, a list of files, or a section of settings" if keys != KEYS else "a file, or a list of files,"
            )
            raise ConfigError(f"{place}: {'.'.join(map(str, keys))}: it is {shown(text)}; {what} is needed")
        yield place, _find(text, place, document.path.parent)


def _find(text: str, place: str, folder: Path) -> Path:
    """The file of that name beside the one that names it, or else among those that ship."""
    try:
        path = path_of(text)
    except ValueError as error:
        raise ConfigError(f"{place}: base: {error}") from None
    candidates = list(dict.fromkeys([folder / path, bases_folder() / path]))
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    beside = [file for place in candidates for file in sorted(place.parent.glob("*.yaml"))]
    near = suggest(path.name, dict.fromkeys(file.name for file in beside))
    looked = ", ".join(str(candidate) for candidate in candidates)
    raise ConfigError(
        f"{place}: base: {one_line(text, LONGEST)} is no file (looked for {looked}); {near}name one from the folder of "
        f"this file, or one of those in {bases_folder()}"
    )


def _merge(under: Document, over: Document) -> None:
    """Put all that one document says over another."""
    _merge_section(under, under.values, over.values, ())
    under.places |= over.places
    under.words |= over.words
    under.notes += [note for note in over.notes if note not in under.notes]
    under.bases += over.bases


def _merge_section(under: Document, section: dict[str, Any], over: dict[str, Any], keys: KeyPath) -> None:
    for key, value in over.items():
        there = section.get(key)
        if isinstance(there, dict) and isinstance(value, dict):
            _merge_section(under, there, value, (*keys, key))
        else:
            under.forget((*keys, key))
            section[key] = value
