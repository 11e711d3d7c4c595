"""The device of `pretended.cpp`: built once for all checkouts, and known to torch as `npu`, as Ascend's is."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import torch
from torch.utils.cpp_extension import include_paths, library_paths

from llmc.atomic import atomic_path

NAME = "npu"
SOURCE = Path(__file__).with_suffix(".cpp")
COMPILERS = ("c++", "g++", "clang++")
OPTIONS = ("-std=c++20", "-O1", "-shared", "-fPIC", "-w", "-DAT_PER_OPERATOR_HEADERS")
# operators for whose results an accelerator's host waits, as it does for numbers and for what comes back to it
WAITS = frozenset(
    {"item", "to_host", "nonzero", "masked_select", "equal", "bincount", "_unique2", "unique_dim", "unique_consecutive"}
)


def compiler() -> str | None:
    """The path of the C++ compiler, if there is one."""
    return next(filter(None, map(shutil.which, COMPILERS)), None)


def built(folder: Path) -> Path:
    """The library in `folder`; who comes first makes it, others wait. It appears whole or not at all, and the system
    frees the lock of who is killed."""
    digest = hashlib.sha256(SOURCE.read_bytes() + repr((OPTIONS, torch.__version__)).encode()).hexdigest()[:16]
    library = folder / f"pretended-{digest}.so"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "pretended.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not library.exists():
            _build(library)
    return library


def _build(library: Path) -> None:
    paths = [*(f"-isystem{path}" for path in include_paths()), *(f"-L{path}" for path in library_paths())]
    with atomic_path(library) as made:
        command = [compiler() or COMPILERS[0], *OPTIONS, str(SOURCE), "-o", str(made), *paths, "-ltorch_cpu", "-lc10"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"the pretended device does not compile:\n{done.stderr}")


def cache_folder() -> Path:
    """Where builds of this user's lie."""
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "llmc"


@dataclass
class Pretended:
    """The device in this process, and what it has counted."""

    present: bool = False  # whether who looks for a device finds it

    @property
    def device(self) -> torch.device:
        return torch.device(NAME, 0)

    @property
    def held(self) -> int:
        """Bytes of all its tensors."""
        found: int = torch.ops.pretended.held()
        return found

    @property
    def peak(self) -> int:
        """The most bytes held since `forget`."""
        found: int = torch.ops.pretended.peak()
        return found

    @property
    def counts(self) -> Counter[str]:
        """Calls of each operator since `forget`; beside them `item`, `to_host`, `to_device`, and `nonzero` of masks."""
        return Counter(torch.ops.pretended.counts())

    @property
    def waits(self) -> int:
        """How often the host would have waited for an accelerator since `forget`."""
        counts = self.counts
        return sum(counts[name] for name in WAITS)

    def forget(self) -> None:
        """Count from here on."""
        torch.ops.pretended.forget()

    @contextmanager
    def found(self) -> Iterator[None]:
        """Be there for who looks for a device while the body runs: other tests of this process choose the CPU."""
        self.present = True
        try:
            yield
        finally:
            self.present = False


@cache
def pretended() -> Pretended:
    """Load the device; a process does so once, and for good."""
    torch.ops.load_library(built(cache_folder()))
    torch.utils.rename_privateuse1_backend(NAME)
    device = Pretended()
    torch._register_device_module(NAME, _module(device))
    torch.utils.generate_methods_for_privateuse1_backend()
    return device


def _module(device: Pretended) -> ModuleType:
    """What torch, diffusers and llmc ask of `torch.npu`."""
    module = ModuleType(f"torch.{NAME}")
    answers = {
        "is_available": lambda: device.present,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "synchronize": lambda device=None: None,
        "empty_cache": lambda: None,
        "reset_peak_memory_stats": lambda device=None: torch.ops.pretended.forget_peak(),
        "max_memory_allocated": lambda device=None: torch.ops.pretended.peak(),
        "manual_seed_all": lambda seed: None,
        "get_amp_supported_dtype": lambda: [torch.bfloat16, torch.float16],
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: None,
        "_is_in_bad_fork": lambda: False,
    }
    for name, answer in answers.items():
        setattr(module, name, answer)
    return module
