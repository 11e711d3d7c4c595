"""torch.distributed in the few forms that a run needs; on one process every function is the identity."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TypeVar

import torch
from torch import distributed

T = TypeVar("T")
BACKENDS = {"cpu": "gloo", "cuda": "nccl", "npu": "hccl"}


def rank() -> int:
    """This process' number; known from torchrun's environment before the group is there."""
    return distributed.get_rank() if _on() else int(os.environ.get("RANK", "0"))


def world() -> int:
    return distributed.get_world_size() if _on() else 1


def start(device: torch.device) -> None:
    """Join the group that torchrun announces, if there is one."""
    if "RANK" in os.environ and not _on():
        distributed.init_process_group(BACKENDS.get(device.type, "gloo"))


def stop() -> None:
    if _on():
        distributed.destroy_process_group()


@contextmanager
def joined(device: torch.device) -> Iterator[None]:
    """In that group while the body runs, however it ends."""
    start(device)
    try:
        yield
    finally:
        stop()


def local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def share(items: Sequence[T]) -> list[tuple[int, T]]:
    """This rank's part of a list, every n-th, with the place of each in the whole."""
    return [(index, item) for index, item in enumerate(items) if index % world() == rank()]


def ranks_here() -> int:
    """How many ranks share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", world()))


def reduce(value: torch.Tensor, how: Literal["max", "min", "sum"]) -> torch.Tensor:
    """Combine a tensor over all ranks, in place."""
    if _on():
        distributed.all_reduce(value, getattr(distributed.ReduceOp, how.upper()))
    return value


def gather(value: T) -> list[T]:
    """The values of all ranks, in order of rank, on every rank; tensors in them lie on the host. One after another, so
    that no room is taken but for the values: gathered at once, each would take the room of the largest."""
    if not _on():
        return [value]
    values = []
    for source in range(world()):
        sent: list[Any] = [value if source == rank() else None]
        distributed.broadcast_object_list(sent, source)
        values += sent
    return values


def wait() -> None:
    if _on():
        distributed.barrier()


def _on() -> bool:
    return distributed.is_available() and distributed.is_initialized()
