"""Which process this is, and the names of files that each process has for itself."""

from __future__ import annotations

import os

from torch import distributed


def get_rank() -> int:
    """This process' number under torchrun; -1 if it runs alone."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank()
    return int(os.environ.get("RANK", "-1"))


def get_world() -> int:
    """How many processes there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_world_size()
    return int(os.environ.get("WORLD_SIZE", "1"))


def get_rank_suffix_file(base_name: str, ext: str, is_distributed: bool, rank: int) -> str:
    """`base.ext`, or `base_{rank}.ext` where every process has a file of its own."""
    return f"{base_name}_{rank}.{ext}" if is_distributed else f"{base_name}.{ext}"
