"""What blocks gave in each recorded call: in memory as far as there is room, and in files beyond it.

It takes a hidden state for each call: tens of GB for a large model and a few dozen calls.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import inf
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from torch import Tensor

from llmc.atomic import scratch_folder
from llmc.calib.store import map_tree
from llmc.calib.tensor_files import InFile, Layout, TensorFiles

# of one call: the output of the last finished block of each class, or of each block whose class is lasting
Outputs = dict[type | int, Any]


class Streams:
    """The outputs of each of so many calls, which are numbered from 0; of each key the latest is kept."""

    def __init__(self, calls: int, room: Room) -> None:
        self.room = room
        self._kept: list[dict[type | int, InMemory | InFile]] = [{} for _ in range(calls)]

    def get(self, number: int) -> Outputs:
        """What is kept of a call; that of the next one is read ahead."""
        found = {key: kept.get() for key, kept in self._kept[number].items()}
        for kept in self._kept[(number + 1) % len(self._kept)].values():
            kept.read_ahead()
        return found

    def put(self, number: int, outputs: Mapping[type | int, Any]) -> None:
        """Keep outputs of a call, in place of those of the same keys."""
        own = self._kept[number]
        for key, output in outputs.items():
            if key in own:
                own.pop(key).drop()
            own[key] = self.room.keep(output)

    def take(self, others: Streams) -> None:
        """Go on with what others kept, who have nothing any more."""
        for own, theirs in zip(self._kept, others._kept, strict=True):
            for key in own.keys() & theirs.keys():
                own[key].drop()
            own.update(theirs)
            theirs.clear()


class Room:
    """So many bytes of memory, and for what they do not hold files in a scratch folder of some place (TMPDIR, if none
    is named). The files are gone when the body ends; those of a process that was killed go with the next one there."""

    def __init__(self, memory: float = inf, place: Path | None = None) -> None:
        self.left, self.place = memory, place
        self._files: TensorFiles | None = None
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._stack.close()

    def keep(self, output: Any) -> InMemory | InFile:
        """Keep the tensors in nested values."""
        sizes: list[int] = []
        map_tree(output, lambda tensor: sizes.append(Layout.of(tensor).nbytes), Tensor)
        if sum(sizes) <= self.left:
            self.left -= sum(sizes)
            return InMemory(output, sum(sizes), self)
        if self._files is None:
            folder = self._stack.enter_context(scratch_folder("calls", self.place))
            self._files = self._stack.enter_context(TensorFiles(folder))
        return self._files.write(output)


@dataclass
class InMemory:
    """Nested values as they are."""

    output: Any
    nbytes: int
    room: Room

    def read_ahead(self) -> None:
        """They are there."""

    def get(self) -> Any:
        return self.output

    def drop(self) -> None:
        self.room.left += self.nbytes
