"""Nested values in files, to the bit, which one thread writes behind and reads ahead of who works on them."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from io import BufferedReader
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor

from llmc.calib.store import map_tree
from llmc.errors import CalibrationError
from llmc.memory import ALIGNED


class TensorFiles:
    """The files of a folder. One thread writes, reads and removes them in the order in which it is asked to, so that
    whoever reads finds what was written before."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._thread = ThreadPoolExecutor(1)
        self._numbers = count()
        self._written: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._thread.shutdown(cancel_futures=True)

    def write(self, value: Any) -> InFile:
        """Begin to write the tensors in nested values; only one value waits to be written, others would fill memory."""
        if self._written is not None:
            self._written.result()
        file = self.folder / str(next(self._numbers))
        self._written = self._thread.submit(_write, file, value)
        return InFile(file, map_tree(value, Layout.of, Tensor), self._written, self._thread)


@dataclass
class InFile:
    """Nested values whose tensors are in a file."""

    file: Path
    layouts: Any  # the values, with a Layout in place of each tensor
    written: Future[None]
    thread: ThreadPoolExecutor
    coming: Future[Any] | None = None

    def read_ahead(self) -> None:
        """Begin to read them."""
        if self.coming is None:
            self.coming = self.thread.submit(_read, self.file, self.layouts)

    def get(self) -> Any:
        self.written.result()  # if the disk was full, that is told
        self.read_ahead()
        assert self.coming is not None
        coming, self.coming = self.coming, None
        return coming.result()

    def drop(self) -> None:
        self.thread.submit(self.file.unlink, missing_ok=True)


@dataclass(frozen=True)
class Layout:
    """How a tensor lies in memory: products round otherwise where their factors lie otherwise."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int  # bytes from a multiple of ALIGNED to the first value

    @classmethod
    def of(cls, tensor: Tensor) -> Layout:
        return cls(tensor.dtype, tuple(tensor.shape), tensor.stride(), tensor.data_ptr() % ALIGNED)

    @property
    def span(self) -> int:
        """How many values there is room for from the first to the last."""
        if 0 in self.shape:
            return 0
        return 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride, strict=True))

    @property
    def nbytes(self) -> int:
        return self.span * self.dtype.itemsize

    def read(self, file: BufferedReader) -> Tensor:
        """The next bytes of a file as a tensor that lies so."""
        found = torch.empty(self.offset + self.nbytes, dtype=torch.uint8)[self.offset :]
        if file.readinto(found.numpy().data) < self.nbytes:
            raise CalibrationError(f"{file.name} is shorter than what was written there; leave it alone, and run again")
        return found.view(self.dtype).as_strided(self.shape, self.stride)


def _write(file: Path, value: Any) -> None:
    try:
        with file.open("wb") as opened:

            def append(tensor: Tensor) -> None:
                span = tensor.detach().as_strided((Layout.of(tensor).span,), (1,))
                opened.write(span.view(torch.uint8).numpy().data)

            map_tree(value, append, Tensor)
    except OSError as error:
        raise CalibrationError(
            f"{file} cannot be written: {error}; what blocks give in all calls goes to this disk where base.memory "
            "does not hold it: make room there, give base.memory more, or take fewer calls (calib.max_calls)"
        ) from error


def _read(file: Path, layouts: Any) -> Any:
    with file.open("rb") as opened:
        return map_tree(layouts, lambda layout: layout.read(opened), Layout)
