"""AWQ (arXiv:2306.00978): scale up channels that see large inputs, and clip weight ranges, by measured output error."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from pydantic import Field

from llmc.algorithms.base import Algorithm
from llmc.layers.transforms import Scale

if TYPE_CHECKING:
    from llmc.calib.block import BlockStep, Group
    from llmc.layers.linear import QuantLinear


class Awq(Algorithm):
    """Find the power of mean|x| to scale by that disturbs outputs least, then clip weight ranges; over all steps."""

    name: Literal["Awq"] = "Awq"
    grid: int = Field(20, ge=2, description="exponents tried between 0 and 1")
    clip: bool = Field(True, description="also search how far each weight range can shrink")
    leaves: ClassVar[frozenset[str]] = frozenset({"scale", "rounded"})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"absmax", "mean", "rows", "gram"})

    def apply(self, block: BlockStep) -> None:
        for group in block.groups:
            if group.may_scale:
                rows = group.rows()
                scales = [equalizing(group, step / self.grid) for step in range(1, self.grid + 1)]
                best = min(scales, key=lambda scale: group.error_with(scale, rows[::2]))
                block.transform_if_better(group, best, rows[1::2], self.name)
        for group in block.groups if self.clip else []:  # once no scale can move into a layer's rows any more
            gram = group.second_moment("gram")
            for layer in group.linears:
                round_clipped(layer, gram)


def equalizing(group: Group, exponent: float) -> Scale:
    """Scale by 1/s, s = mean|x|^exponent with its extremes around 1; exact in bf16, as runtimes keep it."""
    s = group.mean().clamp(min=1e-6).pow(exponent)
    s = s / (s.max() * s.min()).sqrt()
    return Scale((1 / s).to(torch.bfloat16).float())


def round_clipped(layer: QuantLinear, gram: torch.Tensor) -> None:
    """Round to nearest on the range, for each output channel, of least output error."""
    from llmc.numerics.clip import SHRINKS
    from llmc.numerics.quantize import Quantized, quantize, scales, sliced, whole_scale

    spec = layer.spec.weight
    if spec is None:
        return
    weight = layer.float_weight()
    whole = whole_scale(sliced(weight, spec), spec)

    def clipped(shrink: float | torch.Tensor) -> Quantized:
        return quantize(weight, spec, *scales(sliced(weight * shrink, spec), spec, whole), whole)

    changes = (clipped(shrink).dequantize() - weight for shrink in SHRINKS)
    errors = torch.stack([((change @ gram) * change).sum(-1) for change in changes])  # (shrinks, out_features)
    chosen = torch.tensor(SHRINKS, device=weight.device)[errors.argmin(0)]
    layer.round(clipped(chosen[:, None]))
