"""Which denoising step runs, and a static grid of an input for each of them.

Whoever runs the denoising loop sets the step; layers with a grid for each step, and observers, ask for it. It is a
variable of the context, as torch's grad mode is: two pipelines in two threads do not see each other's step.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from llmc.errors import CalibrationError, UnsupportedSpec
from llmc.numerics.quantize import StaticGrid

_step: ContextVar[int] = ContextVar("denoising step")


def running_step() -> int:
    """The number of the denoising step that runs, from 0."""
    try:
        return _step.get()
    except LookupError:
        raise CalibrationError(
            "something depends on the denoising step, and nobody said which one runs; in a loop of your own call "
            "`TimestepManager.set_timestep_idx(i)` at the start of each step, from 0"
        ) from None


@contextmanager
def at_step(step: int) -> Iterator[None]:
    """Run the body in that step, and leave things as they were before."""
    token = _step.set(step)
    try:
        yield
    finally:
        _step.reset(token)


class TimestepManager:
    """The step of a denoising loop of your own, by the name that such loops know from msModelSlim."""

    @staticmethod
    def set_timestep_idx(index: int) -> None:
        """Say that this step starts, counted from 0."""
        _step.set(index)


@dataclass(frozen=True)
class StepGrids:
    """A calibrated scale for every step of the schedule; steps before `dynamic_below` measure theirs at run time."""

    scale: Tensor  # (steps,) float32
    zero: Tensor | None  # (steps,) float32, only on an asymmetric grid
    dynamic_below: int = 0
    filled: tuple[int, ...] = ()  # steps that no call was seen of: they have the row of the nearest

    @classmethod
    def of(cls, seen: Mapping[int, StaticGrid], steps: int, dynamic_below: int = 0) -> StepGrids:
        """From the grids of the steps that were seen; every other one of `steps` gets that of the nearest."""
        known = sorted(seen)
        steps = max(steps, known[-1] + 1)
        grids = [seen[min(known, key=lambda other: abs(other - step))] for step in range(steps)]
        if any(scale is None for scale, *_ in grids):
            raise UnsupportedSpec(
                "a format of two levels measures the scales of its groups at run time, so that none can be kept for "
                "each step; use the method Static, or an integer or fp8 act that is per_tensor"
            )
        zeros = [zero for _, zero, *_ in grids if zero is not None]
        scale = torch.cat([scale.reshape(1) for scale, *_ in grids if scale is not None])
        zero = torch.cat([zero.reshape(1) for zero in zeros]) if zeros else None
        return cls(scale, zero, dynamic_below, tuple(step for step in range(steps) if step not in seen))

    def row(self, step: int) -> StaticGrid:
        """The grid of one step."""
        if step >= len(self.scale):
            raise CalibrationError(
                f"step {step} runs, and the calibration gave scales for the steps 0 to {len(self.scale) - 1}; "
                "calibrate with the schedule that is to run"
            )
        return self.scale[step].reshape(1, 1), None if self.zero is None else self.zero[step].reshape(1, 1)
