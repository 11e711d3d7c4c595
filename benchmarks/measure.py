"""Time and memory of a piece of work in this process."""

from __future__ import annotations

import ctypes
import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch


@dataclass(frozen=True)
class Cost:
    """Seconds, and bytes at the highest point above what was held at the start."""

    seconds: float
    peak: int


def cost(work: Callable[[], object], device: torch.device) -> Cost:
    """Run it once."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # give back what earlier work freed, or it would hide what this needs
        Path("/proc/self/clear_refs").write_text("5")  # the highest point is forgotten
        before = _status("VmRSS")
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
        peak = torch.cuda.max_memory_allocated()
    else:
        peak = _status("VmHWM")
    return Cost(time.perf_counter() - start, peak - before)


@contextmanager
def tensors_as_mappings() -> Iterator[None]:
    """Processes started meanwhile give each tensor of 128 kB or more its own pages, and give them back once freed.

    The C library starts so, and moves on to 32 MB as it runs: tensors of large models are above that, but those of a
    benchmark below, where what was freed long ago stays in the heap, and would be counted as held.
    """
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(1 << 17)
    try:
        yield
    finally:
        del os.environ["MALLOC_MMAP_THRESHOLD_"]


def fastest(work: Callable[[], object], device: torch.device, times: int) -> float:
    """The least seconds of several runs: others on the machine only ever make it slower."""
    return min(cost(work, device).seconds for _ in range(times))


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)
