"""Rounding to a small float grid: ties to even, as hardware, or away from zero, as QPyTorch and LLMC's files."""

from __future__ import annotations

import fcntl
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from llmc.errors import UnsupportedSpec

HALF_AWAY_INSTEAD = (
    "write `rounding: half_away` in place of `use_qtorch: True`: the same grid and ties, no compiler needed"
)


def half_even(x: torch.Tensor, exponent_bits: int, mantissa_bits: int) -> torch.Tensor:
    """The nearest value with that many exponent and mantissa bits, ties to even; `x` is float32, of any size."""
    lowest, highest = 2 - 2 ** (exponent_bits - 1), 2 ** (exponent_bits - 1)
    power = (x.contiguous().view(torch.int32) & 0x7F800000).view(torch.float32)  # the power of two at or below |x|
    # a float32 of 1.5 * 2^23 steps has no bits below the step: added and taken away again, it rounds x to that
    rounder = power.clamp_(2.0**lowest, 2.0**highest).mul_(1.5 * 2.0 ** (23 - mantissa_bits))
    return (x + rounder).sub_(rounder).copysign_(x)  # a negative value that becomes zero stays negative


def half_away(x: torch.Tensor, exponent_bits: int, mantissa_bits: int) -> torch.Tensor:
    """The nearest value with that many exponent and mantissa bits, ties away from zero; `x` is float32 and in range."""
    lowest_exponent = 2 - 2 ** (exponent_bits - 1)  # below it the grid is even: subnormal numbers
    _, exponent = torch.frexp(x)  # |x| is in [0.5, 1) * 2^exponent
    step = torch.ldexp(torch.ones_like(x), (exponent - 1).clamp(min=lowest_exponent) - mantissa_bits)
    steps = (x / step).abs()  # exact: a division by a power of two
    below = steps.floor()
    return torch.sign(x) * (below + (steps - below >= 0.5)) * step


def power_of_two(exponent: torch.Tensor) -> torch.Tensor:
    """2^exponent in float32, exponents limited to those of e8m0: -127 to 127."""
    biased = (exponent.clamp(-127, 127) + 127).to(torch.uint8)
    return biased.view(torch.float8_e8m0fnu).to(torch.float32)


def qtorch_round(x: torch.Tensor, exponent_bits: int, mantissa_bits: int) -> torch.Tensor:
    """QPyTorch's own rounding of float32 values."""
    quant = load_qtorch()
    rounded: torch.Tensor = quant.float_quantize(
        x.contiguous(), exp=exponent_bits, man=mantissa_bits, rounding="nearest"
    )
    return rounded


def load_qtorch() -> Any:
    """Import `qtorch.quant`, which compiles itself at its first import; known failures become advice, never a hang."""
    if "qtorch.quant" in sys.modules:
        return sys.modules["qtorch.quant"]
    need_build_tools()
    folder = Path(os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(_cache_folder())))
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "llmc.lock").open("w") as guard:
        # The system frees this lock when its holder dies. Who holds it is the only builder here, so that a `lock`
        # file left by a build that was killed is stale: torch would wait for it for ever.
        fcntl.flock(guard, fcntl.LOCK_EX)
        for stale in folder.glob("quant_*/lock"):
            stale.unlink()
        try:
            import qtorch.quant
        except (RuntimeError, OSError, ImportError) as error:
            nvcc = (
                " (a CUDA device is visible: QPyTorch compiles for it too, and needs nvcc)"
                if torch.cuda.is_available()
                else ""
            )
            reason = str(error).strip().splitlines()[0]
            raise UnsupportedSpec(
                f"use_qtorch: QPyTorch could not build itself{nvcc}: {reason}\n  What to do: {HALF_AWAY_INSTEAD}."
            ) from error
    return qtorch.quant


def need_build_tools() -> None:
    """QPyTorch needs ninja on PATH even when it was built before, and a C++ compiler when it was not."""
    beside_python = str(Path(sys.executable).parent)  # where pip put ninja, if the environment is not activated
    if beside_python not in os.environ.get("PATH", "").split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join([beside_python, os.environ.get("PATH", "")])
    missing = [what for what, tools in {"ninja": ("ninja",), "C++ compiler": ("c++", "g++", "clang++")}.items()
               if not any(shutil.which(tool) for tool in tools)]  # fmt: skip
    if missing:
        raise UnsupportedSpec(
            f"use_qtorch: QPyTorch compiles itself and finds no {' and no '.join(missing)} on PATH.\n"
            f"  What to do: install it (`pip install ninja`, `apt-get install g++`), or {HALF_AWAY_INSTEAD}."
        )


def _cache_folder() -> Path:
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return (
        root / "llmc" / f"qtorch-py{sys.version_info.major}{sys.version_info.minor}-torch{torch.__version__}-{device}"
    )
