"""Low-rank branches: SVDQuant (arXiv:2411.05007) before rounding, error reconstruction (LQER, QERA) after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from llmc.algorithms.base import Algorithm

if TYPE_CHECKING:
    from llmc.calib.block import BlockStep
    from llmc.calib.group import Group
    from llmc.layers.linear import QuantLinear


class LowRank(Algorithm):
    """Keep the directions that matter most in high precision: of the weight before rounding, or of the error after."""

    name: Literal["LowRank"] = "LowRank"
    rank: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] = Field(
        0.06, description="directions kept: a number, or a share of the layer's smaller side"
    )
    of: Literal["weight", "error"] = Field(
        "weight", description="weight: before rounding; error: after a rounding method"
    )
    iterations: int = Field(
        0,
        ge=0,
        le=100,
        description="of weight: times to round the rest and fit the branch to what that leaves undone",
    )
    gate: bool = Field(True, description="of weight: no branch for a group where it does not lower the output error")

    @model_validator(mode="after")
    def _iterates_before_rounding(self) -> LowRank:
        if self.of == "error" and self.iterations:
            raise ValueError(
                "iterations are for `of: weight`; after rounding, one fit to the error is the best there is"
            )
        return self

    @property
    def leaves(self) -> frozenset[str]:
        return frozenset({"lowrank"})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"rows", "gram"} if self.of == "error" or self.iterations else {"rows"})

    @property
    def works_on_rounded(self) -> bool:
        return self.of == "error"

    def apply(self, block: BlockStep) -> None:
        for group in block.groups:
            if self.of == "error":
                self._mend(group)
            elif self.gate:
                block.keep_if_better(group, lambda group=group: self._split(group), self.name)  # type: ignore[misc]
            else:
                self._split(group)

    def _split(self, group: Group) -> None:
        from llmc.numerics.lowrank import closest, closest_on_outputs
        from llmc.numerics.quantize import quantize

        gram = group.second_moment("gram") if self.iterations else None
        for layer in group.linears:
            if layer.spec.weight is None:
                continue
            weight, rank = layer.float_weight(), self._rank(layer)
            up, down = closest(weight, rank)
            for _ in range(self.iterations):
                assert gram is not None
                rounded = quantize(weight - up @ down, layer.spec.weight).dequantize()
                up, down = closest_on_outputs(weight - rounded, gram, rank)
            layer.split_lowrank(up, down)

    def _mend(self, group: Group) -> None:
        from llmc.numerics.lowrank import closest_on_outputs

        gram = group.second_moment("gram")
        for layer in group.linears:
            if layer.spec.weight is not None:
                if layer.state.rounded is None:
                    layer.round()
                assert layer.state.rounded is not None
                error = layer.float_weight() - layer.state.rounded.dequantize()
                layer.add_lowrank(*closest_on_outputs(error, gram, self._rank(layer)))

    def _rank(self, layer: QuantLinear) -> int:
        return self.rank if isinstance(self.rank, int) else max(1, round(self.rank * min(layer.weight.shape)))
