"""What was written, and how: the last file of an export, so that its presence says that the rest is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmc.convert.writer import write_json
from llmc.lock import LOCK

if TYPE_CHECKING:
    from llmc.export.part import FinishedPart

MANIFEST = "llmc_manifest.json"
UNFINISHED = ".llmc.unfinished"  # until then: the fingerprint of the configuration whose export this becomes


def write_manifest(
    folder: Path, parts: Sequence[FinishedPart], target: str, about: Mapping[str, str], apart: frozenset[str]
) -> None:
    """`about` is what the target says of itself; `apart` are the subfolders of other targets."""
    first = parts[0]
    content = {
        "target": target,
        **about,
        **first.provenance,
        "versions": dict(first.versions),
        "layers": {
            part.name: {
                name: {"spec": str(layer.spec), **part.errors.get(name, {})} for name, layer in part.layers.items()
            }
            for part in parts
        },
        "files": {
            file.relative_to(folder).as_posix(): {"size": file.stat().st_size, "sha256": sha256(file)}
            for file in files_of(folder, apart)
        },
    }
    write_json(folder / MANIFEST, content)


def files_of(folder: Path, apart: frozenset[str]) -> list[Path]:
    """Every file of an export but the manifest itself, and what is there while it is written."""
    beside = {MANIFEST, UNFINISHED, LOCK}
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name not in beside and file.relative_to(folder).parts[0] not in apart
    ]


def sha256(file: Path) -> str:
    """Of the content, read in pieces."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
