"""Weights are lent, not loaded: those of a block come when one of its linears first asks for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from llmc.layers.finite import check_tensor
from llmc.layers.lent import Lent, Made, borrowed
from llmc.layers.turns import AT_ONCE, Turns


class Lender:
    """Fills a network: the weights of the linears in its `blocks` take turns, all else is there for good.

    A tensor that lies in a mapped file takes no memory of the host when it is made, only what is computed of it does.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        blocks: Sequence[nn.Module],
        tensors: Mapping[str, Made],
        device: torch.device,
        resident: int = 0,
        at_once: int = AT_ONCE,
    ) -> None:
        self.name, self.device = name, device
        self._lent: list[dict[str, Lent]] = [{} for _ in blocks]  # of each block, by their full names
        self._seen: set[int] = set()  # blocks that were there once, and are known to hold numbers
        self._turns = Turns(len(blocks), device, self._read, self._give, self._take_back, resident, at_once)
        place: dict[nn.Module, int] = {}
        for index, block in enumerate(blocks):
            place |= dict.fromkeys(block.modules(), index)
        for full, tensor in tensors.items():
            path, _, leaf = full.rpartition(".")
            module = network.get_submodule(path)
            if module in place and isinstance(module, nn.Linear) and leaf == "weight":
                self._lend(place[module], full, module, tensor)
            else:
                _fill(module, leaf, tensor.make().to(device))
        for module in network.modules():
            for leaf, buffer in module.named_buffers(recurse=False):  # those that are computed, not stored
                module._buffers[leaf] = buffer.to(device)

    def _lend(self, index: int, name: str, linear: nn.Linear, tensor: Made) -> None:
        lent = Lent.of(tensor, self.device, partial(self._turns.bring, index), index < self._turns.resident)
        linear.weight = self._lent[index][name] = lent
        linear.register_forward_pre_hook(_borrow_weight)

    def _read(self, index: int) -> list[Tensor]:
        return [lent.source.make() for lent in self._lent[index].values()]

    def _give(self, index: int, values: Sequence[Tensor]) -> None:
        for (name, lent), tensor in zip(self._lent[index].items(), values, strict=True):
            if index not in self._seen:
                check_tensor(f"{self.name}.{name}", tensor)
            lent.give(tensor)
        self._seen.add(index)

    def _take_back(self, index: int) -> None:
        for lent in self._lent[index].values():
            lent.take_back()


def _borrow_weight(linear: nn.Module, args: tuple[Tensor, ...]) -> None:
    assert isinstance(linear.weight, Tensor)
    borrowed(linear.weight)


def _fill(module: nn.Module, leaf: str, values: Tensor) -> None:
    if leaf in module._buffers:
        module._buffers[leaf] = values
    else:
        module._parameters[leaf] = nn.Parameter(values, requires_grad=False)
