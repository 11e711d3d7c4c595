"""Weights are lent, not loaded: those of a block come when one of its linears first asks, and go when another's does.

Nothing is given back: what is there stays until another block needs the room. So nothing has to run at the end of a
forward, and leaving one in the middle of it is of no consequence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from llmc.layers.finite import check_tensor
from llmc.layers.lent import Lent, Made, borrowed


class Lender:
    """Fills a network: the weights of the linears in its `blocks` one block at a time, all else for good.

    A tensor that lies in a mapped file takes no memory when it is made; only what has to be computed of it does.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        blocks: Sequence[nn.Module],
        tensors: Mapping[str, Made],
        device: torch.device,
    ) -> None:
        self.name, self.device = name, device
        self._lent: defaultdict[int, dict[str, Lent]] = defaultdict(dict)  # of each block, by their full names
        self._there: int | None = None  # the block whose weights are
        self._seen: set[int] = set()  # blocks that were there once, and are known to hold numbers
        place = {module: index for index, block in enumerate(blocks) for module in block.modules()}
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

    def bring(self, index: int) -> None:
        """Have the weights of a block there, in the place of another one's."""
        if self._there == index:
            return
        if self._there is not None:
            for lent in self._lent[self._there].values():
                lent.take_back()
        self._there = None
        for name, lent in self._lent[index].items():
            lent.give(lent.source.make().to(self.device))
            if index not in self._seen:
                check_tensor(f"{self.name}.{name}", lent)
        self._there = index
        self._seen.add(index)

    def _lend(self, index: int, name: str, linear: nn.Linear, tensor: Made) -> None:
        lent = Lent.of(tensor, self.device, partial(self.bring, index))
        linear.weight = self._lent[index][name] = lent
        linear.register_forward_pre_hook(_borrow_weight)


def _borrow_weight(linear: nn.Module, args: tuple[Tensor, ...]) -> None:
    assert isinstance(linear.weight, Tensor)
    borrowed(linear.weight)


def _fill(module: nn.Module, leaf: str, values: Tensor) -> None:
    if leaf in module._buffers:
        module._buffers[leaf] = values
    else:
        module._parameters[leaf] = nn.Parameter(values, requires_grad=False)
