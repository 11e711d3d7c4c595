"""Round to nearest: every weight to its closest code, nothing calibrated."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from llmc.algorithms.base import Algorithm

if TYPE_CHECKING:
    from llmc.calib.block import BlockStep


class RTN(Algorithm):
    """Round to nearest; the baseline that every other method must beat."""

    name: Literal["RTN"] = "RTN"
    range: Literal["absmax", "mse", "percentile"] = Field(
        "absmax", description="the range of each scale: the whole, that of least squared error, or most magnitudes"
    )
    percentile: float = Field(99.9, gt=50, le=100, description="with range percentile: how many magnitudes it holds")

    @property
    def leaves(self) -> frozenset[str]:
        return frozenset({"rounded"})

    @property
    def own_scales(self) -> bool:
        return self.range != "absmax"

    def apply(self, block: BlockStep) -> None:
        from llmc.numerics.clip import weight_scales
        from llmc.numerics.quantize import quantize, sliced, whole_scale

        for layer in block.linears.values():
            spec = layer.spec.weight
            if not self.own_scales:
                layer.round()
            elif spec is not None:
                weight = layer.float_weight()
                slices = sliced(weight, spec)
                grid = weight_scales(slices, spec, self.range, self.percentile)
                layer.round(quantize(weight, spec, *grid, whole_scale(slices, spec)))
