"""Finished blocks on disk, so that a run that was cut off goes on after them.

A file holds all that a recipe decided about one block. The block itself goes on with what is read back: so nothing else
can come of a run that was cut off, and codes lie in pages that the system can take back while nobody reads them.
"""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llmc import distributed
from llmc.atomic import atomic_file, atomic_path
from llmc.calib.block import BlockStep
from llmc.calib.coverage import Coverage
from llmc.calib.packed import Packer, unpack
from llmc.calib.seal import parse_sealed, read_sealed, seal_of, sealed
from llmc.calib.store import write_tensors
from llmc.errors import CalibrationError
from llmc.files.header import read_header
from llmc.log import log

COVERAGE = "coverage.json"


@dataclass(frozen=True)
class Journal:
    """A folder of finished blocks; of several ranks, which all come to the same, one writes."""

    folder: Path
    writes: bool = True

    def keep(self, part: str, block: BlockStep) -> None:
        """Note that a block is finished."""
        if not self.writes:
            return
        packer, path = Packer(), self._path(part, block)
        try:
            content = packer.pack(_content(block))
        except TypeError as error:
            log.warning("%s of %s cannot be kept: %s; if the run is cut off it starts over", block.name, part, error)
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(content)
        with atomic_path(path) as partial:
            write_tensors(partial, packer.tensors, {"content": text, "seal": seal_of(text, packer.tensors)})
        _restore(block, _read(path, block.device))

    def restore(self, part: str, blocks: Sequence[BlockStep]) -> int:
        """Bring back the blocks that are finished, from the first one on; returns how many there are on every rank."""
        found: list[dict[str, Any]] = []
        for block in blocks:
            path = self._path(part, block)
            if not path.exists():
                break
            try:
                found.append(_read(path, block.device))
            except CalibrationError as error:
                log.warning("%s; blocks from there on are calibrated again", error)
                break
        count = min(distributed.gather(len(found)))
        for block, content in zip(blocks, found[:count], strict=False):
            _restore(block, content)
        return count

    def keep_coverage(self, coverage: Coverage) -> None:
        """Note which calls were observed: once all blocks are finished none will be."""
        if self.writes:
            self.folder.mkdir(parents=True, exist_ok=True)
            with atomic_file(self.folder / COVERAGE) as file:
                file.write(sealed(Packer().pack(coverage)))

    def coverage(self) -> Coverage:
        """The calls that were observed; none where the recipe needed none."""
        path = self.folder / COVERAGE
        if not path.exists():
            return Coverage()
        try:
            found = unpack(read_sealed(path), {})
        except CalibrationError as error:
            log.warning("%s; the report does not say which calls were observed", error)
            return Coverage()
        assert isinstance(found, Coverage)
        return found

    def remove(self) -> None:
        """The run is over."""
        if self.writes:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, part: str, block: BlockStep) -> Path:
        return self.folder / f"{part}.{block.name}.safetensors"


def _content(block: BlockStep) -> dict[str, Any]:
    return {
        "states": {name: layer.state for name, layer in block.linears.items()},
        "stats": {group.name: group.stats for group in block.groups},
        "errors": block.errors,
        "rejected": dict(block.rejected),
    }


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    metadata = read_header(path, CalibrationError).metadata
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: _taken(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        content = unpack(parse_sealed(metadata.get("content", ""), metadata.get("seal"), tensors), tensors, device)
    except (SafetensorError, ValueError) as error:
        raise CalibrationError(f"{path} cannot be read: {error}") from error
    assert isinstance(content, dict)
    return content


def _taken(tensor: Tensor) -> Tensor:
    """Codes stay in the file; float tensors are small, and products round otherwise where they lie unaligned."""
    return tensor if tensor.element_size() == 1 else tensor.clone()


def _restore(block: BlockStep, content: dict[str, Any]) -> None:
    for name, layer in block.linears.items():
        layer.state = content["states"][name]
    for group in block.groups:
        group.stats = content["stats"][group.name]
    block.errors, block.rejected = content["errors"], Counter(content["rejected"])
    block.on_disk = True
