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
from llmc.numerics.quantize import StaticGrid, fake_quantize, scales
from llmc.numerics.spec import TensorSpec

_step: ContextVar[int] = ContextVar("denoising step")


def running_step() -> int:
    """The number of the denoising step that runs, from 0."""
    try:
        return _step.get()
    except LookupError:
        raise CalibrationError(
            "something depends on the denoising step, and nobody said which one runs; in a loop of your own call "
            "`llmc.layers.steps.start_step(i)` at the start of each step, from 0"
        ) from None


@contextmanager
def at_step(step: int) -> Iterator[None]:
    """Run the body in that step, and leave things as they were before."""
    token = _step.set(step)
    try:
        yield
    finally:
        _step.reset(token)


def start_step(index: int) -> None:
    """Say that this step of a denoising loop starts, counted from 0."""
    if type(index) is not int or index < 0:
        raise CalibrationError(f"the denoising step is {index!r}; give its number as an int, the first one is 0")
    _step.set(index)


@dataclass(frozen=True)
class StepGrids:
    """A calibrated scale for every step of the schedule; steps before `dynamic_below` measure theirs at run time."""

    scale: Tensor  # (steps,) float32
    zero: Tensor | None  # (steps,) float32, only on an asymmetric grid
    dynamic_below: int = 0
    filled: tuple[int, ...] = ()  # steps that no call was seen of: they have the row of the nearest

    @classmethod
    def of(cls, ranges: Mapping[int, Tensor], spec: TensorSpec, steps: int, dynamic_below: int = 0) -> StepGrids:
        """The grids that just fit the ranges (2,) of the steps that were seen; every other one of `steps` gets that of
        the nearest."""
        if spec.format.whole_max is not None:
            raise UnsupportedSpec(
                f"{spec.format.name} measures the scales of its groups at run time, so that none can be kept for each "
                "step; use the method Static, or an integer or fp8 act that is per_tensor"
            )
        seen = sorted(ranges)
        steps = max(steps, seen[-1] + 1)
        nearest = [min(seen, key=lambda other: abs(other - step)) for step in range(steps)]
        scale, zero = scales(torch.stack([ranges[step] for step in nearest]), spec)
        filled = tuple(step for step in range(steps) if step not in ranges)
        return cls(scale.reshape(-1), None if zero is None else zero.reshape(-1), dynamic_below, filled)

    def rounded(self, x: Tensor, steps: Tensor, spec: TensorSpec) -> Tensor:
        """Rows (tokens, channels) as a layer rounds them, each in its own step, which `steps` (tokens,) tells."""
        own = spec.model_copy(update={"granularity": "per_token"})
        zero = None if self.zero is None else self.zero[steps].reshape(-1, 1)
        static = fake_quantize(x, own, self.scale[steps].reshape(-1, 1), zero)
        measured = fake_quantize(x, spec.measured_per_token())
        return torch.where((steps < self.dynamic_below).reshape(-1, 1), measured, static)

    def row(self, step: int) -> StaticGrid:
        """The grid of one step."""
        if step >= len(self.scale):
            raise CalibrationError(
                f"step {step} runs, and the calibration gave scales for the steps 0 to {len(self.scale) - 1}; "
                "calibrate with the schedule that is to run"
            )
        return self.scale[step].reshape(1, 1), None if self.zero is None else self.zero[step].reshape(1, 1)
