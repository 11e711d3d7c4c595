"""Values kept in a folder, each under a name, whole or not at all: what a run that was cut off need not make again.

Whoever keeps a value goes on with what is read back: so nothing else can come of a run that was cut off.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from llmc.atomic import atomic_path
from llmc.calib.checksum import parse_sealed, seal_of
from llmc.calib.serialization import Packer, unpack
from llmc.calib.store import write_tensors
from llmc.errors import CalibrationError
from llmc.files.header import read_header
from llmc.files.json_text import NotJson
from llmc.log import log

T = TypeVar("T")
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Kept:
    """A folder of values: what `Packer` can take apart, tensors as they are."""

    folder: Path

    def has(self, name: str) -> bool:
        """Whether the value is there, and whole; if it is not whole, it goes."""
        try:
            self.get(name)
        except FileNotFoundError:
            return False
        except CalibrationError as error:
            log.warning("%s is damaged, and made again (%s)", self.path(name), error)
            _clear(self.path(name))
            return False
        return True

    def put(self, name: str, value: Any) -> None:
        """Keep a value; a TypeError names what cannot be."""
        packer = Packer()
        content = packer.pack(value)
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_path(self.path(name)) as partial:
            text = json.dumps(content, allow_nan=False)
            write_tensors(partial, packer.tensors, {"content": text, "seal": seal_of(text, packer.tensors)})

    def get(self, name: str, device: torch.device | str = "cpu") -> Any:
        """The value; tensors that were on a device go to this one. A FileNotFoundError if it was never kept."""
        path = self.path(name)
        if not path.exists():
            raise FileNotFoundError(path)
        metadata = read_header(path, CalibrationError).metadata
        try:
            with safe_open(path, "pt") as file:
                tensors = {key: _taken(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
            content = parse_sealed(metadata.get("content", ""), metadata.get("seal"), tensors)
        except (SafetensorError, NotJson) as error:
            raise CalibrationError(f"{path} cannot be read: {error}") from error
        return unpack(content, tensors, device)

    def made(self, name: str, make: Callable[[], T]) -> T:
        """The value, made and kept if it is not there."""
        if not self.has(name):
            self.put(name, make())
        return cast(T, self.get(name))

    def of(self, name: str) -> Kept:
        """A folder in this one, for values that have names of others."""
        return Kept(self.folder / name)

    def remove(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, name: str) -> Path:
        return self.folder / f"{name}{SUFFIX}"


def _clear(path: Path) -> None:
    """Remove whatever has the name."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def _taken(tensor: Tensor) -> Tensor:
    """Codes stay in the file; float tensors are small, and products round otherwise where they lie unaligned."""
    return tensor if tensor.element_size() == 1 else tensor.clone()
