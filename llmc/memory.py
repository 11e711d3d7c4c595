"""Memory that does not suffice, told as what was done, how much was asked for, and what takes less."""

from __future__ import annotations

import ctypes
import errno
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmc.errors import OutOfMemory
from llmc.log import byte_size

# as torch says it of the host, of CUDA and of an NPU, numpy of arrays, the system of pages, and C++ of anything
SHORT = re.compile(r"out of memory|can(?:'|no)t allocate memory|bad_alloc|ALLOC_FAILED", re.IGNORECASE)
DEVICE = re.compile(r"\b(\w+) out of memory")
ASKED = re.compile(r"(?:allocate|mmap) (\d+(?:\.\d+)?) ?(bytes|[KMGT]iB)")
MACHINE, PROCESS = Path("/proc/meminfo"), Path("/proc/self/status")
CONTAINER = Path("/sys/fs/cgroup")  # of the group of processes that this one is in, where it is limited
ALIGNED = 64  # bytes: torch's own tensors on the host begin at multiples of it
UNITS = {"bytes": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}


@contextmanager
def needed_for(work: str, advice: str) -> Iterator[None]:
    """Say what the memory was for where it does not suffice in the body; the innermost of several does."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not _is_shortage(error):
            raise
        raise OutOfMemory(f"{work}: {_shortage(str(error))}\n  What takes less: {advice}.") from error


def available_memory() -> int:
    """Bytes that this process can still have on the host, as far as the system tells."""
    found = re.search(r"MemAvailable: +(\d+) kB", MACHINE.read_text()) if MACHINE.is_file() else None
    machine = int(found[1]) * 1024 if found else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit, used = CONTAINER / "memory.max", CONTAINER / "memory.current"
    most = limit.read_text().strip() if limit.is_file() and used.is_file() else "max"
    return machine if most == "max" else min(machine, max(0, int(most) - int(used.read_text())))


def held_memory() -> int:
    """Bytes that this process holds on the host, but for pages of files: the system can take those back."""
    found = re.search(r"RssAnon:\s+(\d+) kB", PROCESS.read_text()) if PROCESS.is_file() else None
    return int(found[1]) * 1024 if found else 0


def device_peak() -> int | None:
    """The most bytes that tensors had on a device so far; None where none was used, or nobody counts."""
    torch = sys.modules.get("torch")  # which may not have been needed
    for kind in ("cuda", "npu"):
        backend: Any = getattr(torch, kind, None)
        if hasattr(backend, "is_initialized") and backend.is_initialized():
            return int(backend.max_memory_allocated())
    return None


def give_back() -> None:
    """Return to the system what was freed: the C library of Linux keeps what came in pieces of less than 32 MB, and has
    no use for it in what is larger."""
    if (trim := getattr(ctypes.CDLL(None), "malloc_trim", None)) is not None:
        trim(0)


def _is_shortage(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or SHORT.search(str(error)) is not None


def _shortage(text: str) -> str:
    """What an error says of it."""
    device, asked = DEVICE.search(text), ASKED.search(text)
    whose = f"of the device ({device[1]})" if device else "of the host"
    if asked is None:
        return f"the memory {whose} does not suffice; how much more was asked for is not said."
    return f"the memory {whose} does not suffice for {byte_size(float(asked[1]) * UNITS[asked[2]])} more."
