"""What a phase of a run takes: time, forwards of networks, and the most memory that was held at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmc.engine.network import Network

STATM = Path("/proc/self/statm")  # in pages: all, resident, resident of files
BETWEEN = 0.02  # seconds from one look to the next


@dataclass
class Usage:
    """Of one phase, on this rank."""

    seconds: float = 0.0
    forwards: float = 0.0  # of denoising networks; a block by itself is its share of one
    host_bytes: int = 0  # the most at once, what only maps files left out; 0 where the system does not tell
    device_bytes: int = 0  # the most at once that tensors took of a device


@contextmanager
def measured(usage: Usage, device: torch.device) -> Iterator[None]:
    """Measure time and memory while the body runs, however it ends."""
    began = time.monotonic()
    _forget_peak(device)
    with _watching(usage):
        try:
            yield
        finally:
            usage.seconds = round(time.monotonic() - began, 2)
            usage.device_bytes = _device_peak(device)


@contextmanager
def counting(networks: Sequence[Network], note: Callable[[float], None]) -> Iterator[None]:
    """Tell of each block of a denoising network that runs, as its share of the linears of all blocks."""
    with ExitStack() as hooks:
        for network in networks:
            if not network.part.is_denoiser:
                continue
            sizes = [
                sum(layer.in_features * layer.out_features for layer in block.linears.values())
                for block in network.blocks
            ]
            for block, size in zip(network.blocks, sizes, strict=True):
                # a replay puts something in the place of a whole block, and then no linear of it runs
                first, share = block.groups[0].linears[0], size / sum(sizes)
                hooks.callback(first.register_forward_pre_hook(_telling(note, share)).remove)
        yield


def _telling(note: Callable[[float], None], share: float) -> Callable[[Any, Any], None]:
    return lambda module, args: note(share)


@contextmanager
def _watching(usage: Usage) -> Iterator[None]:
    """Look at the memory of this process now and then."""
    if not STATM.exists():
        yield
        return
    ended = threading.Event()

    def watch() -> None:
        while True:
            usage.host_bytes = max(usage.host_bytes, anonymous_bytes())
            if ended.wait(BETWEEN):
                return

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def anonymous_bytes() -> int:
    """What the process holds now that no file could give again."""
    import resource

    _, resident, of_files, *_ = STATM.read_text(encoding="ascii").split()
    return (int(resident) - int(of_files)) * resource.getpagesize()


def _forget_peak(device: torch.device) -> None:
    if device.type != "cpu":
        getattr(torch, device.type).reset_peak_memory_stats(device)


def _device_peak(device: torch.device) -> int:
    return 0 if device.type == "cpu" else int(getattr(torch, device.type).max_memory_allocated(device))
