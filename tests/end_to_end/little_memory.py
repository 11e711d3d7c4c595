"""A plug-in (`--plugin`) with which a process gets little more memory than it has already."""

from __future__ import annotations

import multiprocessing
import resource
from pathlib import Path

MORE = 5 * 10**8  # bytes

if multiprocessing.parent_process() is not None:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    size = pages * resource.getpagesize() + MORE
    resource.setrlimit(resource.RLIMIT_AS, (size, size))
