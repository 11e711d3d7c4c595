"""Changes of a linear's input basis. Each keeps the product: input(x) @ weight(w).T == x @ w.T"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch


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
class Scale:
    """Multiply each input channel by `multiplier` (1/s in the papers).

    `fold` names the norm that can absorb it; `upstream` says that earlier linears have absorbed it, so that the input
    arrives scaled. With neither, the target must multiply at run time.
    """

    multiplier: torch.Tensor  # (in_features,) float32
    fold: str | None = None
    upstream: bool = False

    def input(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.multiplier.to(x.dtype)

    def undo(self, x: torch.Tensor) -> torch.Tensor:
        return x / self.multiplier.to(x.dtype)

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
    """Multiply the input by an orthogonal matrix; one that mixes no two heads of an attention can go into the linears
    that made its values."""

    matrix: torch.Tensor  # (in_features, in_features) float32
    within_heads: bool = False
    upstream: bool = False

    def input(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.matrix.to(x.dtype)

    def undo(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.matrix.T.to(x.dtype)

    def weight(self, w: torch.Tensor) -> torch.Tensor:
        return w @ self.matrix

    def restore(self, w: torch.Tensor) -> torch.Tensor:
        return w @ self.matrix.T

    def __str__(self) -> str:
        return "rotate, folded into the linear before" if self.upstream else "rotate, at run time"
