"""Changes of a linear's input basis. Each keeps the product: input(x) @ weight(w).T == x @ w.T"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch

from llmc.numerics.hadamard import times_blocks, times_kronecker

# whether a runtime rotates an input: it cannot, it does where the file says so, it always does
Rotation = Literal["never", "may", "must"]


class Transform(Protocol):
    """A change of basis. `undo` takes an input back, `restore` a weight; with `upstream` the input arrives changed."""

    @property
    def upstream(self) -> bool: ...

    def input(self, x: torch.Tensor) -> torch.Tensor: ...
    def undo(self, x: torch.Tensor) -> torch.Tensor: ...
    def weight(self, w: torch.Tensor) -> torch.Tensor: ...
    def restore(self, w: torch.Tensor) -> torch.Tensor: ...
    def __str__(self) -> str: ...


@dataclass(frozen=True)
class ModulatedRows:
    """Where the linear that modulates a norm, x * (1 + scale) + shift, gives the two: its rows from these on."""

    linear: str  # full name
    shift: tuple[int, ...]
    scale: tuple[int, ...]

    def __str__(self) -> str:
        rows = " and ".join(str(first) for first in (*self.shift, *self.scale))
        return f"{self.linear} from rows {rows} on"

    def folded(self, tensor: torch.Tensor, multiplier: torch.Tensor) -> torch.Tensor:
        """The linear's float32 weight or bias after both are multiplied: m (1 + s) is 1 + (m s + m - 1)."""
        tensor = tensor.clone()
        for first in (*self.shift, *self.scale):
            rows = tensor[first : first + len(multiplier)]
            rows *= multiplier.reshape(-1, *[1] * (tensor.ndim - 1))
        for first in self.scale if tensor.ndim == 1 else ():  # the bias
            tensor[first : first + len(multiplier)] += multiplier - 1
        return tensor


@dataclass(frozen=True)
class ProducerRows:
    """Where a linear has the rows whose outputs are linearly what a later one reads: from this one on."""

    linear: str  # full name
    first: int

    def __str__(self) -> str:
        return f"{self.linear} from row {self.first} on"

    def folded(self, scale: Scale, out_features: int) -> Scale:
        """The change of the later one's input as one of all rows: the others stay as they are."""
        multiplier = torch.ones(out_features, device=scale.multiplier.device)
        multiplier[self.first : self.first + len(scale.multiplier)] = scale.multiplier
        return replace(scale, multiplier=multiplier)


@dataclass(frozen=True)
class Scale:
    """Multiply each input channel by `multiplier` (1/s in the papers).

    `fold` says which norm can absorb it, by name, or rows of which linear; `upstream` says that earlier linears have
    absorbed it, so that the input arrives scaled. With neither, the target must multiply at run time.
    """

    multiplier: torch.Tensor  # (in_features,) float32
    fold: str | ModulatedRows | None = None
    upstream: bool = False

    @classmethod
    def dividing_by(cls, s: torch.Tensor) -> Scale:
        """By 1/s, exact in bf16, as runtimes keep it."""
        return cls((1 / s).to(torch.bfloat16).float())

    def of(self, channels: slice) -> Scale:
        """The scale of some channels alone."""
        return replace(self, multiplier=self.multiplier[channels])

    def input(self, x: torch.Tensor) -> torch.Tensor:
        return (x * self.multiplier).to(x.dtype)  # in float32: a norm's multiplier need not be exact in 16 bits

    def undo(self, x: torch.Tensor) -> torch.Tensor:
        return (x / self.multiplier).to(x.dtype)

    def weight(self, w: torch.Tensor) -> torch.Tensor:
        return w / self.multiplier

    def restore(self, w: torch.Tensor) -> torch.Tensor:
        return w * self.multiplier

    def __str__(self) -> str:
        where = (
            "folded into the linear before"
            if self.upstream
            else f"folded into {self.fold}"
            if self.fold
            else "at run time"
        )
        return f"scale, {where}"


@dataclass(frozen=True)
class Rotate:
    """Multiply each block of input channels by an orthogonal matrix; one that mixes no two heads of an attention can go
    into the linears that made its values."""

    factors: tuple[torch.Tensor, ...]  # orthogonal, float32; the matrix is their Kronecker product
    within_heads: bool = False
    upstream: bool = False
    regular: bool = False  # one matrix, that of ConvRot, which runtimes make themselves from its size

    @property
    def size(self) -> int:
        """How many channels a block mixes."""
        return math.prod(len(factor) for factor in self.factors)

    def input(self, x: torch.Tensor) -> torch.Tensor:
        return times_blocks(x, self.factors[0]) if self.regular else times_kronecker(x, self.factors)

    def undo(self, x: torch.Tensor) -> torch.Tensor:
        if self.regular:  # its own inverse
            return self.input(x)
        return times_kronecker(x, [factor.T for factor in self.factors])

    def weight(self, w: torch.Tensor) -> torch.Tensor:
        return self.input(w)  # the inverse of an orthogonal matrix is its transpose

    def restore(self, w: torch.Tensor) -> torch.Tensor:
        return self.undo(w)

    def __str__(self) -> str:
        kind = f"rotate {self.size} at a time" if self.regular else "rotate"
        return f"{kind}, {'folded into the linear before' if self.upstream else 'at run time'}"
