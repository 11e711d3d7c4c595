"""A checkpoint in which each linear says for itself how it is stored, or stays float: plain codes beside their scale.

ComfyUI, torchao and LightX2V's encoders keep networks so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch

from llmc.verify.files import Entry
from llmc.verify.names import Linear
from llmc.verify.network import Network
from llmc.verify.storage import FLOATS, Leaf, Reading, short

CODES = (torch.int8, torch.float8_e4m3fn)


@dataclass(frozen=True)
class PlainNetwork(Network):
    """One network of it. `leaves` are what follows a linear's name, by what it is."""

    leaves: Mapping[str, str]  # weight, weight_scale, and what may be beside: input_scale, input_multiplier
    unread: ClassVar[frozenset[str]] = frozenset()  # names that may be there, and hold nothing of the network
    exact_scales: ClassVar[torch.dtype] = torch.bfloat16  # to which runtimes round where they dequantize

    def quantized(self, linear: Linear) -> bool:
        entry = self.leaf(linear, "weight")
        return entry is not None and entry.dtype not in FLOATS

    def leaf(self, linear: Linear, what: str) -> Entry | None:
        """A tensor of a quantized linear."""
        return self.entries.get(f"{linear.name}.{self.leaves[what]}") if what in self.leaves else None

    def sound(self) -> Iterator[tuple[Linear, Mapping[str, Entry]]]:
        for linear in self.linears:
            found = {what: entry for what in self.leaves if (entry := self.leaf(linear, what)) is not None}
            if self.quantized(linear) and not any(shape_problems(self, linear)) and "weight_scale" in found:
                yield linear, found

    def readings(self, linear: Linear, entries: Mapping[str, Entry]) -> Iterator[Reading]:
        codes, scale = entries["weight"].read().float(), entries["weight_scale"].read().float()
        yield Reading("", codes * scale)
        if linear.outputs == linear.inputs:
            yield Reading("it is transposed", codes.t() * scale)

    def scales(self, linear: Linear, entries: Mapping[str, Entry]) -> Iterator[tuple[Entry, bool]]:
        """What scales something, and whether it is to be positive and exact in what runtimes round to."""
        yield from ((entries[what], about.scale) for what, about in beside(linear).items() if what in entries)

    def multiplier(self, linear: Linear) -> Entry | None:
        return self.leaf(linear, "input_multiplier")

    def grids(self, linear: Linear, entries: Mapping[str, Entry]) -> Mapping[str, torch.Tensor]:
        return {"act_scale": entries["input_scale"].read()} if "input_scale" in entries else {}


def beside(linear: Linear) -> Mapping[str, Leaf]:
    """What may lie beside its codes."""
    return {
        "weight_scale": Leaf((torch.float32,), ((linear.outputs, 1), ())),
        "input_scale": Leaf((torch.float32,), ((),)),
        "input_multiplier": Leaf(FLOATS, ((linear.inputs,),), scale=False),
    }


def shape_problems(network: PlainNetwork, linear: Linear) -> Iterator[str]:
    """What is wrong about types and shapes of a linear."""
    if not network.quantized(linear):
        entry = network.find(linear)
        if entry is not None and entry.shape != linear.shape:
            yield f"{entry.name} is {list(entry.shape)}; its sizes make it {list(linear.shape)}"
        return
    wanted = {"weight": Leaf(CODES, (linear.shape,)), **beside(linear)}
    for what, allowed in wanted.items():
        entry = network.leaf(linear, what)
        if entry is not None and not allowed.fits(entry):
            types = " or ".join(map(short, allowed.dtypes))
            shapes = " or ".join(str(list(shape)) for shape in allowed.shapes)
            yield f"{entry.name} is {short(entry.dtype)} {list(entry.shape)}; it must be {types} {shapes}"
