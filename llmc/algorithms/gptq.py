"""GPTQ (arXiv:2210.17323): push each column's rounding error onto the columns not yet rounded, so that outputs keep.

With `target: asymmetric` the weight first moves to where, on the inputs that quantized blocks really give, it comes
closest to the float output (GPTAQ, arXiv:2504.02692; Qronos, arXiv:2505.11695).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from llmc.algorithms.base import Algorithm

if TYPE_CHECKING:
    import torch

    from llmc.calib.block import BlockStep, Group
    from llmc.layers.linear import QuantLinear


class GPTQ(Algorithm):
    """Round column by column, and let later columns make up for the error of earlier ones."""

    name: Literal["GPTQ"] = "GPTQ"
    damping: float = Field(0.01, gt=0, le=1, description="added to each channel's energy, as a share of it")
    act_order: bool = Field(True, description="round the columns with the largest inputs first")
    range: Literal["absmax", "mse"] = Field(
        "mse", description="the grid: the whole range, or that of least squared error"
    )
    propagate: Literal["quantized", "float"] = Field(
        "quantized", description="what a block is observed on: outputs of the quantized blocks before it, or float ones"
    )
    target: Literal["symmetric", "asymmetric"] = Field(
        "symmetric", description="what is aimed at: the float layer on the inputs observed, or on its float inputs"
    )
    leaves: ClassVar[frozenset[str]] = frozenset({"rounded"})

    @model_validator(mode="after")
    def _needs_two_streams(self) -> GPTQ:
        if self.target == "asymmetric" and self.propagate == "float":
            raise ValueError("target: asymmetric compares float with quantized inputs; write `propagate: quantized`")
        return self

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"gram", "cross"} if self.target == "asymmetric" else {"gram"})

    @property
    def sequential(self) -> bool:
        return self.propagate == "quantized"

    def apply(self, block: BlockStep) -> None:
        for group in block.groups:
            gram = group.second_moment("gram")
            for layer in group.linears:
                if layer.spec.weight is not None:
                    self._round(layer, group, gram, block)

    def _round(self, layer: QuantLinear, group: Group, gram: torch.Tensor, block: BlockStep) -> None:
        from llmc.numerics.clip import least_squares_scales
        from llmc.numerics.gptq import gptq, least_squares
        from llmc.numerics.quantize import scales, sliced

        spec = layer.spec.weight
        assert spec is not None
        weight = layer.float_weight()
        if self.target == "asymmetric":
            branch = layer.lowrank_product()
            cross = group.second_moment("cross")
            weight = least_squares(weight + branch, gram, cross, self.damping) - branch
        choose = least_squares_scales if self.range == "mse" else scales
        solution = gptq(weight, gram, spec, *choose(sliced(weight, spec), spec), self.damping, self.act_order)
        if solution.damping > self.damping:
            block.rejected[f"{self.name} damping"] += 1
        layer.round(solution.rounded)
