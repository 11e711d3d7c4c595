"""Tensors of safetensors files as views of the mapped files: to make one copies nothing, and the system can take back
the pages that nobody reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import torch

from llmc.convert.safetensors_file import LazyTensor, StoredTensor
from llmc.errors import ExportError
from llmc.files.regular import check_file
from llmc.memory import ALIGNED


@dataclass(frozen=True)
class MappedTensor:
    """A tensor where it lies in a file, which is not to be changed in place."""

    stored: StoredTensor
    file: torch.Tensor  # its bytes

    @property
    def dtype(self) -> torch.dtype:
        return self.stored.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.stored.shape

    def make(self) -> torch.Tensor:
        return self._view(self.stored.start, self.shape)

    def rows(self, start: int, stop: int) -> torch.Tensor:
        row = prod(self.shape[1:]) * self.dtype.itemsize
        return self._view(self.stored.start + start * row, (stop - start, *self.shape[1:]))

    def _view(self, start: int, shape: tuple[int, ...]) -> torch.Tensor:
        size = prod(shape) * self.dtype.itemsize
        return self.file[start : start + size].view(self.dtype).reshape(shape)


def mapped(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Tensors of which those that lie in a file, at a place that suits their type, are views of it."""
    stored = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, StoredTensor)}
    files = {}
    for file in {tensor.file for tensor in stored.values()}:
        check_file(file, ExportError)
        files[file] = torch.from_file(str(file), size=file.stat().st_size, dtype=torch.uint8)
    views = {
        name: MappedTensor(tensor, files[tensor.file])
        for name, tensor in stored.items()
        if tensor.start % _alignment(tensor.dtype) == 0
    }
    return {**tensors, **views}


def _alignment(dtype: torch.dtype) -> int:
    """Bytes of which the place of a tensor in its file is to be a multiple. A CPU's products in float32 round otherwise
    where their factors lie otherwise, and nothing may depend on how long the header of a file is: such tensors are
    copied to where torch puts its own."""
    return ALIGNED if dtype.itemsize >= torch.float32.itemsize else dtype.itemsize
