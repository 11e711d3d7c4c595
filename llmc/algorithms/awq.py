"""AWQ (arXiv:2306.00978): scale up channels that see large inputs, and clip weight ranges, by measured output error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from llmc.algorithms.base import Algorithm
from llmc.layers.transforms import Scale

if TYPE_CHECKING:
    from llmc.calib.block import BlockStep
    from llmc.calib.group import Group


class Awq(Algorithm):
    """Find the power of mean|x| to scale by that disturbs outputs least, then clip weight ranges; over all steps."""

    name: Literal["Awq"] = "Awq"
    grid: int = Field(20, ge=2, le=1000, description="exponents tried between 0 and 1")
    scale: bool = Field(True, description="search how far to scale channels; False: only clip")
    clip: bool = Field(True, description="also search how far each weight range can shrink")

    @model_validator(mode="after")
    def _does_something(self) -> Awq:
        if not (self.scale or self.clip):
            raise ValueError("scale and clip are both False, so that Awq would do nothing; write `method: RTN`")
        return self

    @property
    def leaves(self) -> frozenset[str]:
        return frozenset({"scale"} if self.scale else ()) | frozenset({"rounded"} if self.clip else ())

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"mean", "rows"} if self.scale else {"rows"})

    def apply(self, block: BlockStep) -> None:
        for group in block.groups if self.scale else []:
            if group.may_scale:
                block.transform_if_better(group, equalizers(group, self.grid), self.name)
        for group in block.groups if self.clip else []:  # once no scale can move into a layer's rows any more
            round_clipped(group)


def equalizers(group: Group, grid: int) -> list[Scale]:
    """Scales by 1/s, s = mean|x|^exponent with its extremes around 1."""
    mean = group.mean().clamp(min=1e-6)
    powers = (mean.pow(step / grid) for step in range(1, grid + 1))
    scales = (s / (s.max() * s.min()).sqrt() for s in powers)
    return [Scale.dividing_by(s) for s in scales]


def round_clipped(group: Group) -> None:
    """Round to nearest on the range, for each slice of a weight, of least output error on the group's rows."""
    from llmc.numerics.clip import output_scales
    from llmc.numerics.quantize import quantize, sliced, whole_scale

    rows = group.rows()
    for layer in group.linears:
        spec = layer.spec.weight
        if spec is not None:
            weight = layer.float_weight()
            layer.round(
                quantize(weight, spec, *output_scales(weight, spec, rows), whole_scale(sliced(weight, spec), spec))
            )
