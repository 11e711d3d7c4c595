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

QUIET = 0.03  # of the processors' time may be missing


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """At the highest point of a run, above what was held at the start."""
    gc.collect()
    _wait(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
    else:
        ctypes.CDLL("libc.so.6").malloc_trim(0)  # give back what earlier work freed, or it would hide what this needs
        Path("/proc/self/clear_refs").write_text("5")  # the highest point is forgotten
        before = status("VmRSS")
    work()
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else status("VmHWM")
    return peak - before


@dataclass(frozen=True)
class Turn:
    """One run of a piece of work."""

    seconds: float
    stolen: float  # the share of the processors' time that a host gave to others meanwhile

    @property
    def is_quiet(self) -> bool:
        return self.stolen < QUIET


def timed(work: Callable[[], object], device: torch.device) -> Turn:
    """Run it once, with memory as earlier work left it."""
    gc.collect()
    _wait(device)
    start, stolen = time.perf_counter(), _stolen()
    work()
    _wait(device)
    seconds = time.perf_counter() - start
    return Turn(seconds, (_stolen() - stolen) / (seconds * (os.cpu_count() or 1)))


def _stolen() -> float:
    """Seconds of all processors that a virtual machine wanted and did not get, since it started."""
    jiffies = Path("/proc/stat").read_text().split(maxsplit=10)[8]
    return int(jiffies) / os.sysconf("SC_CLK_TCK")


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


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
    return min(timed(work, device).seconds for _ in range(times))


def status(key: str) -> int:
    """Bytes of this process, as the system says them."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    raise KeyError(key)
