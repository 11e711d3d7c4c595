"""Low-rank branches: SVDQuant (arXiv:2411.05007) before rounding, error reconstruction (LQER, QERA) after it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

import torch
from pydantic import Field

from llmc.algorithms.base import Algorithm

if TYPE_CHECKING:
    from llmc.calib.block import BlockStep


class LowRank(Algorithm):
    """Keep the directions that matter most in high precision: of the weight before rounding, or of the error after."""

    name: Literal["LowRank"] = "LowRank"
    rank: Annotated[int, Field(ge=1)] | Annotated[float, Field(gt=0, lt=1)] = Field(
        0.06, description="directions kept: a number, or a share of the layer's smaller side"
    )
    of: Literal["weight", "error"] = Field(
        "weight", description="weight: before rounding; error: after a rounding method"
    )
    leaves: ClassVar[frozenset[str]] = frozenset({"lowrank"})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"gram"} if self.of == "error" else ())

    @property
    def works_on_rounded(self) -> bool:
        return self.of == "error"

    def apply(self, block: BlockStep) -> None:
        for group in block.groups:
            for layer in group.linears:
                if layer.spec.weight is None:
                    continue
                rank = self.rank if isinstance(self.rank, int) else max(1, round(self.rank * min(layer.weight.shape)))
                if self.of == "weight":
                    layer.split_lowrank(*leading(layer.float_weight(), rank))
                else:
                    if layer.state.rounded is None:
                        layer.round()
                    assert layer.state.rounded is not None
                    error = layer.float_weight() - layer.state.rounded.dequantize()
                    layer.add_lowrank(*whitened(error, group.second_moment("gram"), rank))


def leading(matrix: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """up (out, rank) and down (rank, in) of the closest matrix of that rank."""
    u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, vt[:rank] * root[:, None]


def whitened(error: torch.Tensor, gram: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same, closest on outputs: directions of the error count by how much of the inputs lies in them."""
    values, vectors = torch.linalg.eigh(gram.double())
    root = values.clamp(min=values.max() * 1e-8).sqrt()
    up, down = leading(error @ (vectors * root).float(), rank)
    return up, down @ (vectors / root).float().T
