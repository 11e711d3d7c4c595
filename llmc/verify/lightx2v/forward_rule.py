"""One true forward of an export: its blocks in the device's own arithmetic, in float, and those of the float model."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import linear

from llmc.layers.kernels import StoredLinear, arithmetic
from llmc.numerics.quantize import fake_quantize
from llmc.verify.files import Entry
from llmc.verify.lightx2v.wan_forward import Inputs, run_block, tiny_inputs
from llmc.verify.network import Network, sizes
from llmc.verify.sources import FloatNetwork, Sources, open_float
from llmc.verify.verdict import Checked, Finding, NotChecked
from llmc.verify.wan import Expected, Linear

APART = 0.5  # of what a block adds: as far as 4-bit activations go; wrong codes or scales reach 1
MULTIPLIED = ("int8", "fp8", "fp8-pertensor")  # storages whose codes hardware multiplies and scales whole sums of


@torch.no_grad()
def forward_is_close(network: Network, sources: Sources) -> Finding:
    """Every block computes in the device's own arithmetic what its dequantized weights do, and the float model's."""
    sound = dict(network.sound())
    floats = {each.native: each for each in network.float_tensors()}
    if network.storage is None:
        return NotChecked("the scheme is not known")
    model = None if sources.float_model is None else open_float(sources.float_model, network.part)
    inputs = tiny_inputs(network.wan, lambda name: network.read(floats[name]), network.images)
    x, heads, way = inputs.x, network.wan.heads, ""
    problems: list[str] = []
    far: dict[str, list[float]] = {}
    for block in (f"blocks.{number}" for number in range(network.wan.layers)):
        layers = {_inside(block, each): StoredLayer(network, each, entries) for each, entries in sound.items()
                  if each.native.startswith(f"{block}.")}  # fmt: skip
        run = partial(run_block, x, inputs, heads, _own_tensors(network, block))
        y = run({name: layer.exact for name, layer in layers.items()})
        real = run({name: layer.real for name, layer in layers.items()})
        way = layers["ffn.0"].way
        if not (y.isfinite().all() and real.isfinite().all()):
            return Checked([f"{block} gives NaN or infinity"])
        found = {"the dequantized weights": _apart(real, y, x)}
        wanted = None if model is None else _float_block(network, model, block, x, inputs)
        if wanted is not None:
            found["the float model"] = _apart(y, wanted, x)
        for what, distance in found.items():
            far.setdefault(what, []).append(distance)
            if not distance <= APART:
                problems.append(f"{block} is {distance:.2g} of what it adds away from {what}")
        x = y
    return Checked(
        problems, f"{way}; at most {', '.join(f'{max(each):.2g} away from {what}' for what, each in far.items())}"
    )


class StoredLayer:
    """A linear as it lies in the file: multiplied in float, or in the arithmetic of the runtime."""

    def __init__(self, network: Network, linear: Linear, entries: Mapping[str, Entry]) -> None:
        assert network.storage is not None
        storage = network.storage
        tensors = {leaf: entry.read() for leaf, entry in entries.items()}
        self.weight = next(storage.decode(tensors, *sizes(linear))).weight
        self.bias = network.read(Expected(f"{linear.native}.bias", f"{linear.diffusers}.bias", ()))
        self.act = None if network.scheme == "fp8-intel-xpu" else storage.act_spec()
        upper = tensors.get("input_global_scale")  # the inverse of the scale above those of the input's groups
        self.whole = None if upper is None else 1 / upper.float().reshape(())
        self.stored: StoredLinear | None = None
        self.way = "products of dequantized codes"
        if storage.name in MULTIPLIED and self.act is not None:
            scale = tensors["weight_scale"]
            self.stored = StoredLinear(tensors["weight"], scale, self.bias, self.act, tensors.get("input_scale"))
            self.way = arithmetic(tensors["weight"])

    def exact(self, x: Tensor) -> Tensor:
        """With the dequantized weight, and the input as it is."""
        return linear(x, self.weight, self.bias)

    def real(self, x: Tensor) -> Tensor:
        """As the runtime computes it."""
        if self.stored is None:
            return linear(fake_quantize(x, self.act, whole=self.whole), self.weight, self.bias)
        y: Tensor = self.stored(x)
        return y


def _own_tensors(network: Network, block: str) -> dict[str, Tensor]:
    """The float tensors of a block by their names in it, smoothing included."""
    every = (*network.float_tensors(), *network.wan.multipliers())
    return {_inside(block, each): network.read(each) for each in every
            if each.native.startswith(f"{block}.") and network.find(each) is not None}  # fmt: skip


def _float_block(network: Network, model: FloatNetwork, block: str, x: Tensor, inputs: Inputs) -> Tensor | None:
    """What the block of the float model makes of the same input; None if it is not there, or of other sizes."""
    own = {_inside(block, each): model.read(each) for each in network.float_tensors()
           if each.native.startswith(f"{block}.")}  # fmt: skip
    weights = {_inside(block, each): model.read(each, "weight") for each in network.linears()
               if each.native.startswith(f"{block}.")}  # fmt: skip
    shapes = {_inside(block, each): entry.shape for each in network.float_tensors()
              if (entry := network.find(each)) is not None}  # fmt: skip
    shapes |= {_inside(block, each): sizes(each) for each in network.linears()}
    there = {name: tensor for name, tensor in own.items() if tensor is not None and tensor.shape == shapes[name]}
    multiply = {name: partial(linear, weight=weight, bias=there.get(f"{name}.bias"))
                for name, weight in weights.items() if weight is not None and weight.shape == shapes[name]}  # fmt: skip
    if (len(there), len(multiply)) != (len(own), len(weights)):
        return None
    return run_block(x, inputs, network.wan.heads, there, multiply)


def _inside(block: str, expected: Expected) -> str:
    """The native name within a block."""
    return expected.native.removeprefix(f"{block}.")


def _apart(found: Tensor, wanted: Tensor, before: Tensor) -> float:
    """How far two outputs are apart, as a share of what the block added."""
    return float((found - wanted).norm() / (wanted - before).norm().clamp(min=1e-30))
