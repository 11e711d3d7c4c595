"""GPTQ (arXiv:2210.17323): push each column's rounding error onto the columns not yet rounded, so that outputs keep.

With `target: asymmetric` the weight first moves to where, on the inputs that quantized blocks really give, it comes
closest to the float output (GPTAQ, arXiv:2504.02692; Qronos, arXiv:2505.11695).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from llmc.algorithms.base import Algorithm

if TYPE_CHECKING:
    import torch

    from llmc.calib.block import BlockStep
    from llmc.calib.group import Group
    from llmc.layers.linear import QuantLinear
    from llmc.numerics.spec import TensorSpec


class GPTQ(Algorithm):
    """Round column by column, and let later columns make up for the error of earlier ones."""

    name: Literal["GPTQ"] = "GPTQ"
    damping: float = Field(0.01, gt=0, le=1, description="added to each channel's energy, as a share of it")
    act_order: bool = Field(True, description="round the columns with the largest inputs first")
    range: Literal["absmax", "mse", "percentile", "search"] = Field(
        "mse",
        description="the range of each scale: the whole, that of least squared error, most magnitudes, or the one of "
        "several whose solution disturbs an output channel least (6 times the work of a solution)",
    )
    percentile: float = Field(99.9, gt=50, le=100, description="with range percentile: how many magnitudes it holds")
    propagate: Literal["quantized", "float"] = Field(
        "quantized", description="what a block is observed on: outputs of the quantized blocks before it, or float ones"
    )
    target: Literal["symmetric", "asymmetric"] = Field(
        "symmetric", description="what is aimed at: the float layer on the inputs observed, or on its float inputs"
    )
    pull: float = Field(
        10.0,
        gt=0,
        le=1e6,
        description="with target asymmetric: what draws the weight back to the float one, in units of damping, lest it "
        "fits the calls that were observed and no others",
    )
    precision: Literal["float32", "float64"] = Field("float32", description="what the Gram matrices are added up in")

    @model_validator(mode="after")
    def _needs_two_streams(self) -> GPTQ:
        if self.target == "asymmetric" and self.propagate == "float":
            raise ValueError("target: asymmetric compares float with quantized inputs; write `propagate: quantized`")
        return self

    @property
    def leaves(self) -> frozenset[str]:
        return frozenset({"rounded"})

    @property
    def needs(self) -> frozenset[str]:
        kinds = ("gram", "cross") if self.target == "asymmetric" else ("gram",)
        return frozenset(self._moment(kind) for kind in kinds)

    @property
    def sequential(self) -> bool:
        return self.propagate == "quantized"

    @property
    def within_block(self) -> bool:
        return self.target == "asymmetric"  # else a linear would correct once more what those before it have corrected

    def apply(self, block: BlockStep) -> None:
        for group in block.groups:
            layers = [layer for layer in group.linears if layer.spec.weight is not None]
            if layers:
                self._round(layers, group, block)

    def _round(self, layers: list[QuantLinear], group: Group, block: BlockStep) -> None:
        from llmc.numerics.gptq import Factor, gptq_on_best_grid, least_squares

        gram = group.second_moment(self._moment("gram"), keep=self._moment("gram") in block.needed_later)
        weights = [layer.float_weight() for layer in layers]
        if self.target == "asymmetric":
            cross = group.second_moment(self._moment("cross"), keep=self._moment("cross") in block.needed_later)
            aim = Factor.of(gram, self.pull * self.damping, self.act_order)
            branches = [layer.lowrank_product() for layer in layers]
            weights = [
                least_squares(weight + branch, cross, aim) - branch
                for weight, branch in zip(weights, branches, strict=True)
            ]
            gram = aim.gram()
            del cross
        factor = Factor.of(gram, self.damping, self.act_order)
        if factor.damping > self.damping:
            block.rejected[f"{self.name} damping"] += 1
        for spec in dict.fromkeys(layer.spec.weight for layer in layers):  # linears of one grid are solved at once
            assert spec is not None
            alike = [index for index, layer in enumerate(layers) if layer.spec.weight == spec]
            own = [weights[index] for index in alike]
            rounded = gptq_on_best_grid(own, factor, spec, [self._grids(weight, spec) for weight in own])
            for index, codes in zip(alike, rounded, strict=True):
                layers[index].round(codes)
        if any(layer.state.lowrank is not None for layer in layers):
            gram = factor.gram()
            for layer, weight in zip(layers, weights, strict=True):
                fit_branch(layer, weight, gram)

    def _grids(self, weight: torch.Tensor, spec: TensorSpec) -> list[tuple[torch.Tensor, torch.Tensor | None]]:
        from llmc.numerics.clip import shrunk_scales, weight_scales
        from llmc.numerics.quantize import sliced

        slices = sliced(weight, spec)
        if self.range != "search":
            return [weight_scales(slices, spec, self.range, self.percentile)]
        # a scale that output channels share cannot be chosen for one of them
        own_scales = spec.granularity in ("per_channel", "per_group")
        return shrunk_scales(slices, spec) if own_scales else [weight_scales(slices, spec, "mse")]

    def _moment(self, kind: str) -> str:
        return kind if self.precision == "float32" else f"{kind}64"


def fit_branch(layer: QuantLinear, weight: torch.Tensor, gram: torch.Tensor) -> None:
    """Turn a low-rank branch, if there is one, to what rounding left undone of a weight, in the directions that it
    has."""
    from llmc.numerics.lowrank import best_up

    state = layer.state
    if state.lowrank is not None and state.rounded is not None:
        up, down = state.lowrank
        error = weight - state.rounded.dequantize()
        layer.state = replace(state, lowrank=(up + best_up(error, down, gram), down))
