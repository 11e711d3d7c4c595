"""The manifest of an export, as it is found: what was written for whom, and the digest of each file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmc.errors import ExportError
from llmc.files.json_text import FileObject, read_object_if_there
from llmc.files.regular import is_inside
from llmc.files.words import some

MANIFEST = "llmc_manifest.json"
SAID = ("target", "scheme", "mindie_version", "soc", "dtype")  # keys that say of a text or a number what it was for


@dataclass(frozen=True)
class Manifest:
    """What it says."""

    said: Mapping[str, str] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)  # file below the export -> its sha256


def read_manifest(folder: Path) -> Manifest | None:
    """That of an export, if it has one; one that is damaged is refused, since nothing can be held against it."""
    found = read_object_if_there(folder / MANIFEST, ExportError)
    if found is None:
        return None
    said = {key: found[key] for key in SAID if found.get(key) is not None}
    if odd := [
        key for key, value in said.items() if isinstance(value, bool) or not isinstance(value, str | int | float)
    ]:
        raise ExportError(f"{found.path} says of {some(odd)} neither a text nor a number; export again")
    return Manifest({key: str(value) for key, value in said.items()}, _digests(found))


def _digests(found: FileObject) -> dict[str, str]:
    files = found.get("files", {})
    digests = {name: _digest(about) for name, about in files.items()} if isinstance(files, dict) else {"files": None}
    if odd := [name for name, digest in digests.items() if digest is None]:
        raise ExportError(f"{found.path} has no sha256 for {some(odd)}; it has one for each file: export again")
    if outside := [name for name in digests if not is_inside(name)]:
        raise ExportError(
            f"{found.path} names {some(outside)}, which is no file below {found.path.parent}: export again"
        )
    return {name: digest for name, digest in digests.items() if digest is not None}


def _digest(about: object) -> str | None:
    digest = about.get("sha256") if isinstance(about, dict) else None
    return digest if isinstance(digest, str) else None
