"""What a table of names is made of: pairs of names, and rows for what is more than a name.

Ours (diffusers, transformers) is on the left, the original release on the right; `Fused` and `Swapped`, which adapters
need too, are in `llmc.renames`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch

from llmc.renames import Fused, Swapped


@dataclass(frozen=True)
class Reshaped:
    """One tensor that has another shape in the original."""

    source: str
    target: str
    there: Callable[[torch.Tensor], torch.Tensor]
    back: Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Tied:
    """Names of ours for one and the same tensor."""

    sources: tuple[str, ...]
    target: str


@dataclass(frozen=True)
class Constant:
    """A tensor that only the original has, of known values, made from the shape of the one `beside` it, in its type or
    in `dtype`."""

    target: str
    beside: str
    values: Callable[[tuple[int, ...]], torch.Tensor]
    dtype: torch.dtype | None = None


@dataclass(frozen=True)
class Omitted:
    """What only the original has, below one module, and no class of ours reads."""

    target: str
    what: str


Table: TypeAlias = tuple[tuple[str, str] | Fused | Swapped | Reshaped | Tied | Constant | Omitted, ...]
