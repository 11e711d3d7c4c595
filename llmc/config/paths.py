"""Where the paths of a configuration are looked for, and their types in the schema."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ValidationInfo

from llmc.config.words import LONGEST
from llmc.errors import ConfigError
from llmc.log import one_line, visible
from llmc.shipped import shipped

MAX_NAME, MAX_PATH = 255, 4095  # bytes, on every file system that matters
MAX_FILES = 10_000  # that are looked at in one folder


def input_candidates(path: Path, folders: Sequence[Path] = ()) -> list[Path]:
    """The places where an input may be, in order. LLMC runs from `scripts/`, so its relative paths start there;
    `folders` are those of the configuration."""
    if path.is_absolute():
        return [path]
    places = [Path.cwd(), shipped() / "scripts", *folders, shipped()]
    return list(dict.fromkeys((place / path).resolve() for place in places))


def resolve_input(path: Path, folders: Sequence[Path] = ()) -> Path:
    """The first candidate that exists; the path as written when there is none, for the checks to report."""
    return next((place for place in input_candidates(path, folders) if place.exists()), path)


def config_file(path: Path) -> Path:
    """The file that is meant: `configs/...` names those that ship from wherever llmc is started."""
    beside = shipped() / path
    return beside if not path.exists() and beside.is_file() else path


def some_files(folder: Path) -> Iterator[Path]:
    """What lies in a folder and below; a part, where it is so much that another folder must have been meant."""
    return islice(folder.rglob("*"), MAX_FILES)


def input_of(text: str, key: str, folders: Sequence[Path] = ()) -> Path:
    """Where an input is that is looked at before the configuration as a whole is; `key` is what an error calls it."""
    try:
        return resolve_input(path_of(text), folders)
    except ValueError as error:
        raise ConfigError(f"{key}: {error}") from None


def path_of(text: str) -> Path:
    """The path that is meant, with the home folder for `~`; a ValueError says why none can have that name."""
    if not text:
        raise ValueError("the path is empty; name a folder, or leave the key out")
    if visible(text) != text or "\n" in text:
        raise ValueError(f"the path {one_line(text, LONGEST)} has control characters in it; write it without them")
    try:
        path = Path(text).expanduser()
    except RuntimeError as error:
        raise ValueError(f"it is {one_line(text, LONGEST)}; no home folder is known for it: write it out") from error
    longest = max(len(os.fsencode(part)) for part in ("", *path.parts))
    if longest > MAX_NAME or len(os.fsencode(path)) > MAX_PATH:
        raise ValueError(
            f"the path {one_line(text, LONGEST)} is too long; a name in it has at most {MAX_NAME} bytes, all of it "
            f"{MAX_PATH}: write a shorter one"
        )
    return path


def _resolved(path: Path, info: ValidationInfo) -> Path:
    source = (info.context or {}).get("source")
    return resolve_input(path, source.folders if source else ())


def _checked(value: Any) -> Any:
    return path_of(str(value)) if isinstance(value, str | Path) else value


InputPath = Annotated[Path, BeforeValidator(_checked), AfterValidator(_resolved)]
OutputPath = Annotated[Path, BeforeValidator(_checked)]
