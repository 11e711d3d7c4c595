"""One target of `llmc verify`: how its exports are known, and the rules that they must keep."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path

from llmc.plugin import Plugin
from llmc.verify.manifest import read_manifest
from llmc.verify.network import folder_of
from llmc.verify.sources import Sources
from llmc.verify.verdict import Verdict


def named_target(path: Path) -> str | None:
    """The target that the manifest of an export names, if there is one."""
    manifest = read_manifest(folder_of(path))
    return None if manifest is None else manifest.said.get("target")


class Target(Plugin):
    """What is verified is read without the code that wrote it: a target imports nothing of `llmc.export`."""

    def recognizes(self, path: Path) -> bool:
        """Whether a folder or file is an export of this target, whole or not: as its manifest says, if it has one."""
        named = named_target(path)
        return self.looks_like(path) if named is None else named == self.name

    @abstractmethod
    def looks_like(self, path: Path) -> bool:
        """Whether a folder or file without a manifest is an export of this target."""

    @abstractmethod
    def verdicts(self, path: Path, sources: Sources) -> Iterator[Verdict]:
        """Every rule, in the order in which a reader should see them."""
