"""A static grid of an input for each denoising step, and the step that the network is in."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class StepClock:
    """Which denoising step runs; whoever runs the pipeline sets it, layers of one network share it."""

    step: int = 0


@dataclass(frozen=True)
class StepGrids:
    """A calibrated scale for every step of the schedule; steps before `dynamic_below` measure theirs at run time."""

    scale: Tensor  # (steps,) float32
    zero: Tensor | None  # (steps,) float32, only on an asymmetric grid
    dynamic_below: int = 0
    filled: tuple[int, ...] = ()  # steps that no call was seen of: they have the row of the nearest
    clock: StepClock = field(default_factory=StepClock)
