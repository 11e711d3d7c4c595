"""Which device a run uses: chosen, never assumed."""

from __future__ import annotations

import importlib.util

import torch

from llmc.distributed import local_rank
from llmc.errors import ConfigError
from llmc.memory import available_memory


def choose_device(wanted: str, asked: str = "base.device") -> torch.device:
    """`auto` takes the first kind of accelerator that is there; a kind alone means this rank's own device. `asked` is
    what the user calls the choice."""
    if importlib.util.find_spec("torch_npu") is not None:
        import torch_npu  # noqa: F401 - registers the npu device
    present = [kind for kind in ("cuda", "npu") if _present(kind)]
    if wanted == "auto":
        wanted = present[0] if present else "cpu"
    kind = wanted.partition(":")[0]
    if kind != "cpu" and kind not in present:
        raise ConfigError(f"{asked} is {wanted}, but here are only: cpu{''.join(', ' + k for k in present)}.")
    device = torch.device(wanted if kind == "cpu" or ":" in wanted else f"{kind}:{local_rank()}")
    if kind != "cpu":
        getattr(torch, kind).set_device(device)
    return device


def free_memory(device: torch.device) -> int | None:
    """The bytes that nobody uses where a device works; None where nobody can tell."""
    if device.type != "cpu":
        backend = getattr(torch, device.type)
        return int(backend.mem_get_info(device)[0]) if hasattr(backend, "mem_get_info") else None
    return available_memory()


def _present(kind: str) -> bool:
    backend = getattr(torch, kind, None)
    return backend is not None and backend.is_available()
