"""A checkpoint in which each linear is stored in a form of its own, or stays float: plain codes beside their scale.

ComfyUI and torchao keep networks so. Sizes are told from shapes where no config.json lies there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from llmc.verify.files import Entry
from llmc.verify.joint import read_joint
from llmc.verify.listed import Listed
from llmc.verify.network import Network, sizes
from llmc.verify.storage import FLOATS, Leaf, Reading, Storage, whole
from llmc.verify.wan import Linear, Wan, read_wan

CODES = (torch.int8, torch.float8_e4m3fn)
BLOCK = re.compile(r"(vace_)?blocks\.(\d{1,9})\.")


@dataclass(frozen=True, kw_only=True)
class Layered(Network):
    """One network of it. `leaves` are what follows a linear's name, by what it is."""

    leaves: Mapping[str, str]  # weight, weight_scale, and what may be beside: input_scale, input_multiplier

    @cached_property
    def described(self) -> Wan | Listed | list[str]:
        found = read_joint(self.config or {}, self.entries)
        return read_wan(self.config or {}) if found is None else found

    def quantized(self, linear: Linear) -> bool:
        """Whether codes are stored of it."""
        entry = self.leaf(linear, "weight")
        return entry is not None and entry.dtype not in FLOATS

    def leaf(self, linear: Linear, what: str) -> Entry | None:
        """A tensor of a quantized linear."""
        return self.find(linear, self.leaves[what]) if what in self.leaves else None

    @property
    def storage(self) -> Storage:
        return Storage("plain codes", torch.int8, whole, _beside, _decode)

    def sound(self) -> Iterator[tuple[Linear, Mapping[str, Entry]]]:
        """The quantized linears whose codes and scale are as they should be."""
        for linear in self.linears():
            found = {what: entry for what in self.leaves if (entry := self.leaf(linear, what)) is not None}
            if self.quantized(linear) and not any(shape_problems(self, linear)) and "weight_scale" in found:
                yield linear, found

    def input_multiplier(self, linear: Linear) -> Tensor | None:
        entry = self.leaf(linear, "input_multiplier")
        return None if entry is None else entry.read().float()


def _beside(n: int, k: int) -> Mapping[str, Leaf]:
    return {
        "weight_scale": Leaf((torch.float32,), ((n, 1), ())),
        "input_scale": Leaf((torch.float32,), ((),)),
        "input_multiplier": Leaf(FLOATS, ((k,),), scale=False),
    }


def _decode(tensors: Mapping[str, Tensor], n: int, k: int) -> Iterator[Reading]:
    codes, scale = tensors["weight"].float(), tensors["weight_scale"].float()
    yield Reading("", codes * scale)
    if n == k:
        yield Reading("it is transposed", codes.t() * scale)


def shape_problems(network: Layered, linear: Linear) -> Iterator[str]:
    """What is wrong about types and shapes of a linear."""
    if not network.quantized(linear):
        entry = network.find(linear, "weight")
        if entry is not None and entry.shape != linear.shape:
            yield f"{entry.name} is {list(entry.shape)}; its sizes make it {list(linear.shape)}"
        return
    n, k = sizes(linear)
    wanted = {"weight": Leaf(CODES, ((n, k),)), **_beside(n, k)}
    for what, allowed in wanted.items():
        entry = network.leaf(linear, what)
        if entry is not None and not allowed.fits(entry):
            types = " or ".join(map(short, allowed.dtypes))
            shapes = " or ".join(str(list(shape)) for shape in allowed.shapes)
            yield f"{entry.name} is {short(entry.dtype)} {list(entry.shape)}; it must be {types} {shapes}"


def sizes_from_shapes(entries: Mapping[str, Entry]) -> dict[str, Any]:
    """What a config.json of the original network would say; a key is left out where a tensor is missing."""
    places = {"dim": ("patch_embedding.bias", 0, 1), "in_dim": ("patch_embedding.weight", 1, 1),
              "out_dim": ("head.head.bias", 0, 4), "ffn_dim": ("blocks.0.ffn.0.bias", 0, 1),
              "freq_dim": ("time_embedding.0.weight", 1, 1)}  # fmt: skip
    config: dict[str, Any] = {}
    for key, (name, axis, pixels) in places.items():
        entry = entries.get(name)
        if entry is not None and len(entry.shape) > axis:
            config[key] = entry.shape[axis] // pixels
    numbers = {(bool(found[1]), int(found[2])) for name in entries if (found := BLOCK.match(name))}
    config["num_layers"] = sum(not vace for vace, _ in numbers)
    config["vace_layers"] = sorted(number for vace, number in numbers if vace)
    return config | {"num_heads": config["dim"] // 128 or 1} if "dim" in config else config


def short(dtype: torch.dtype) -> str:
    """Its name alone."""
    return str(dtype).removeprefix("torch.")
