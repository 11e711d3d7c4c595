"""A parameter whose values are there only while somebody needs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor, nn


class Made(Protocol):
    """A tensor of a checkpoint, known by its header, which is read when it is made."""

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    def make(self) -> Tensor: ...


class Lent(nn.Parameter):
    """A parameter of the right type, shape and device, whose values come when they are asked for, and go again.

    Without them one NaN stands for all: whoever forgets to ask has a result that nobody takes for one.
    """

    source: Made
    borrow: Callable[[], None]  # has the values come
    is_there: bool
    stays: bool  # once it came

    @classmethod
    def of(cls, source: Made, device: torch.device, borrow: Callable[[], None], stays: bool = False) -> Lent:
        """One that is not there yet."""
        found = cls(_placeholder(source, device), requires_grad=False)
        found.source, found.borrow, found.stays, found.is_there = source, borrow, stays, False
        return found

    def give(self, values: Tensor) -> None:
        """Here they are."""
        self.data, self.is_there = values, True

    def take_back(self) -> None:
        """Let go of the values."""
        self.data, self.is_there = _placeholder(self.source, self.device), False

    def detach(self) -> Tensor:
        """The values by themselves, made for whoever asks where they are not there: so a state dict holds all of them,
        and a file is written without a loan."""
        return self.data if self.is_there else self.source.make()

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Parameter:
        return nn.Parameter(self.detach().clone(), requires_grad=False)


def borrowed(parameter: Tensor) -> Tensor:
    """A parameter with its values there."""
    if isinstance(parameter, Lent):
        parameter.borrow()
    return parameter


def _placeholder(source: Made, device: torch.device) -> Tensor:
    return torch.full((1,), torch.nan, dtype=source.dtype, device=device).expand(source.shape)
