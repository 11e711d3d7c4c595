"""Blocks whose tensors take turns where a network runs: a few are there at a time, and the next one is being read.

Nothing is given back: what is there stays until another block needs the room. So nothing has to run at the end of a
forward, and leaving one in the middle of it is of no consequence.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

AT_ONCE = 2  # blocks: the one that works, and the one before it, which a replay runs again in every call


@dataclass
class Turns:
    """`read` makes the tensors of a block on the host; `give` is handed them on the device, `take_back` lets go.

    The first `resident` blocks stay once they came, since blocks are asked for in a circle: of those that take turns,
    the one that went last is the one that is wanted last.
    """

    count: int
    device: torch.device
    read: Callable[[int], Sequence[Tensor]]
    give: Callable[[int, Sequence[Tensor]], None]
    take_back: Callable[[int], None]
    resident: int = 0
    at_once: int = AT_ONCE

    def __post_init__(self) -> None:
        self._stay: set[int] = set()
        self._there: list[int] = []  # of those that take turns, those that came first before others
        self._ahead = None if self.device.type == "cpu" else Ahead(self.device, self.read)

    def bring(self, index: int) -> None:
        """Have the tensors of a block there."""
        if index in self._stay or index in self._there:
            return
        while len(self._there) >= self.at_once:
            self.take_back(self._there.pop(0))
        self.give(index, self.read(index) if self._ahead is None else self._ahead.take(index))
        if index < self.resident:
            self._stay.add(index)
        else:
            self._there.append(index)
        following = (index + 1) % self.count
        if self._ahead is not None and following not in self._stay and following not in self._there:
            self._ahead.ask(following)


class Ahead:
    """Brings one block to a device while another one works: a thread reads it, and copies it beside the computing
    where the device has streams."""

    def __init__(self, device: torch.device, read: Callable[[int], Sequence[Tensor]]) -> None:
        self.device, self.read = device, read
        self._backend: Any = getattr(torch, device.type)
        self._stream = self._backend.Stream(device) if hasattr(self._backend, "Stream") else None
        self._thread = ThreadPoolExecutor(1, "llmc-ahead")
        self._coming: tuple[int, Future[list[Tensor]]] | None = None

    def ask(self, index: int) -> None:
        """Begin to bring a block."""
        self._coming = index, self._thread.submit(self._bring, index)

    def take(self, index: int) -> list[Tensor]:
        """A block's tensors on the device, which may be asked for only now."""
        if self._coming is None or self._coming[0] != index:
            self._forget()
            self.ask(index)
        assert self._coming is not None
        values = self._coming[1].result()
        self._coming = None
        if self._stream is not None:
            computing = self._backend.current_stream(self.device)
            computing.wait_stream(self._stream)
            for tensor in values:
                tensor.record_stream(computing)  # its memory is not given to a later block before this one is done
        return values

    def _forget(self) -> None:
        """Wait for a block that nobody asked for, so that no more than one is ever on its way."""
        if self._coming is not None:
            self._coming[1].result()
            self._coming = None

    @torch.no_grad()
    def _bring(self, index: int) -> list[Tensor]:
        with nullcontext() if self._stream is None else self._backend.stream(self._stream):
            return [self._moved(tensor) for tensor in self.read(index)]

    def _moved(self, tensor: Tensor) -> Tensor:
        if self._stream is None:
            return tensor.to(self.device)
        return tensor.pin_memory().to(self.device, non_blocking=True)
