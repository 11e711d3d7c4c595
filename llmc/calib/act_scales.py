"""Scales of acts that are fixed before the model runs: of a whole tensor, or of each step of the schedule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from llmc.calib.group import Group
from llmc.calib.probe import RANGE_ROWS, best_share, spread
from llmc.layers.linear import QuantLinear
from llmc.layers.steps import StepGrids
from llmc.numerics.clip import RangeRule, act_range
from llmc.numerics.quantize import fake_quantize, static_grid
from llmc.numerics.spec import TensorSpec

ActRule = RangeRule | Literal["output"]
StepRule = Literal["absmax", "mse", "output"]


def fix_act_scales(group: Group, by: ActRule = "absmax", percentile: float = 100.0) -> None:
    """Give linears of the group static scales in the present basis where they have none yet: from the range of every
    call of the calibration, or by a rule over the sampled rows."""
    for spec, layers in _without_scales(group):
        ends = _act_range(group, spec, layers, by, percentile)
        for layer in layers:
            layer.fix_act_scale(*ends)


def fix_step_scales(group: Group, steps: int, dynamic_below: int, by: StepRule) -> None:
    """Give linears of the group static scales for each step of the schedule, from its own range; all steps clip an
    equal share of theirs."""
    for spec, layers in _without_scales(group):
        grids = _step_grids(group, spec, layers, steps, dynamic_below, by)
        for layer in layers:
            layer.state = replace(layer.state, steps=grids)


def _without_scales(group: Group) -> Iterator[tuple[TensorSpec, list[QuantLinear]]]:
    """Layers that are to have static scales and have none yet, by how their input is rounded."""
    waiting = [layer for layer in group.linears if layer.awaits_act_scale]
    for spec in dict.fromkeys(layer.spec.act for layer in waiting):
        assert spec is not None
        yield spec, [layer for layer in waiting if layer.spec.act == spec]


def _act_range(
    group: Group, spec: TensorSpec, layers: Sequence[QuantLinear], by: ActRule, percentile: float
) -> tuple[Tensor, Tensor]:
    if by == "mse" or by == "percentile":
        return act_range(group.rows(), spec, by, percentile)
    low, high = group.range()
    if by == "absmax":
        return low, high

    def rounded(rows: Tensor, share: float) -> Tensor:
        return fake_quantize(rows, spec, *static_grid(low * share, high * share, spec))

    share = best_share(spread(group.rows(), RANGE_ROWS), rounded, layers)
    return low * share, high * share


def _step_grids(
    group: Group, spec: TensorSpec, layers: Sequence[QuantLinear], steps: int, dynamic_below: int, by: StepRule
) -> StepGrids:
    ranges = group.step_ranges()
    row_steps = spread(group.stats["row_steps"], RANGE_ROWS)[:, 0].to(group.device, torch.long)

    def grids(share: float) -> StepGrids:
        return StepGrids.of({step: ends * share for step, ends in ranges.items()}, spec, steps, dynamic_below)

    def rounded(rows: Tensor, share: float) -> Tensor:
        return grids(share).rounded(rows, row_steps, spec)

    if by == "absmax":
        return grids(1)
    return grids(best_share(spread(group.rows(), RANGE_ROWS), rounded, layers if by == "output" else ()))
