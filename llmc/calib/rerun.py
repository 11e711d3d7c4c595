"""A block over its recorded calls, again and again: for methods that learn from what the whole block gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from llmc.calib.running import at_call
from llmc.calib.store import Call, CallStore, map_tree

TINY = 1e-30


@dataclass(frozen=True)
class Rerun:
    """This rank's calls of one block; they are told by their place in `headers`."""

    network: nn.Module  # which prepares what the block reads
    store: CallStore
    run: Callable[[int, Call], Any]  # what the block gives in a call, as it is now
    wanted: Callable[[int], Any]  # what the float block gives there on float inputs
    device: torch.device

    @property
    def headers(self) -> list[Call]:
        """The calls without their tensors."""
        return self.store.headers()

    def error(self, place: int) -> Tensor:
        """Squares of what the block's outputs are off in one call, as shares of the float ones, summed over its
        outputs."""
        call = self.store.call(place, self.device)
        with at_call(call):
            found = tensors_in(self.run(place, call))
        shares = []
        for output, wanted in zip(found, tensors_in(self.wanted(place)), strict=True):
            exact = wanted.to(output.device, torch.float32)
            shares.append((output.float() - exact).square().sum() / exact.square().sum().clamp(min=TINY))
        return torch.stack(shares).sum()

    def tokens(self, place: int) -> int:
        """How many tokens the block's outputs hold in a call."""
        return sum(tensor.shape[:-1].numel() for tensor in tensors_in(self.wanted(place)))


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors in nested values, in order."""
    found: list[Tensor] = []
    map_tree(value, found.append, Tensor)
    return found
