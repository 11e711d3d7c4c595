"""What was judged, small enough to keep: a digest of every tensor of a network, to hold an export against.

Tensors have the names of the float network. What a recipe leaves on a layer stands beside its weight and bias, as
`multiplier`, `act_scale`, `act_zero`, `act_whole`, `steps_scale`, `steps_zero`, `lowrank_up`, `lowrank_down` or
`rotation`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from torch import Tensor

from llmc.engine.network import Network
from llmc.layers.attention import QuantAttention
from llmc.layers.linear import QuantLinear
from llmc.layers.transforms import ModulatedRows, Rotate, Scale
from llmc.numerics.quantize import Quantized, at_once

Digests = dict[str, str]  # `dtype`, and the sha256 of the values in each type in which a file may keep them
KEPT_IN = (torch.float32, torch.bfloat16, torch.float16)


def weight_digests(networks: Sequence[Network]) -> dict[str, dict[str, str]]:
    """Part -> layer -> sha256 of its dequantized weight in float32, row by row."""
    return {
        network.part.name: {
            name: digest(rounded) for name, layer in network.layers.items() if (rounded := layer.rounded) is not None
        }
        for network in networks
    }


def digest(rounded: Quantized) -> str:
    """Of one weight; some rows at a time, where none needs to know of others."""
    found, rows = hashlib.sha256(), rounded.shape[0]
    count = at_once(rows, rounded.shape[1], rounded.codes.device) if rounded.spec.rows_apart else rows
    for first in range(0, rows, count):
        part = rounded.of_rows(slice(first, first + count)).dequantize()
        found.update(part.cpu().contiguous().numpy().data)
    return found.hexdigest()


def tensor_digests(network: Network) -> dict[str, Digests]:
    """Of every tensor but the rounded weights, as they were judged; what absorbs a smoothing is as it was loaded."""
    return {name: digests(values) for name, values in _tensors(network)}


def folded_digests(network: Network) -> dict[str, Digests]:
    """Of the tensors that are others once norms, and the linears that modulate norms, have absorbed a smoothing."""
    state = network.part.module.state_dict(keep_vars=True)
    return {name: digests(values) for name, values in _folded(state, _absorbed(network)).items()}


def digests(values: Tensor) -> Digests:
    """Of one tensor. A type is left out in which it has the values that it has in float32."""
    found, exact = {"dtype": _word(values.dtype)}, values.detach().float().cpu().contiguous()
    for dtype in KEPT_IN:
        kept = exact.to(dtype).float()
        if dtype == torch.float32 or not kept.equal(exact):
            found[_word(dtype)] = hashlib.sha256(kept.numpy().data).hexdigest()
    return found


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _tensors(network: Network) -> Iterator[tuple[str, Tensor]]:
    """What no layer owns, in the type that the network keeps it in, then layer by layer, then of attentions."""
    owned = {f"{name}.weight" for name in network.layers} | {f"{name}.bias" for name in network.layers}
    module = network.part.module
    state = module.state_dict(keep_vars=True)
    tied = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    owned |= tied - {name for name, _ in module.named_parameters()}  # the first of several names stands for all
    yield from ((name, values) for name, values in state.items() if name not in owned)
    for name, layer in network.layers.items():
        for leaf, values in _of_layer(layer, state.keys()):
            yield f"{name}.{leaf}", values
    for name, attention in network.attentions.items():
        yield from ((f"{name}.{leaf}", values) for leaf, values in _calibrated(attention))


def _of_layer(layer: QuantLinear, stored: Collection[str]) -> Iterator[tuple[str, Tensor]]:
    state = layer.state
    if state.rounded is None:
        yield "weight", layer.float_weight().to(layer.dtype)
    if (bias := layer.final_bias()) is not None:
        yield "bias", bias
    scales = [each for each in state.transforms if isinstance(each, Scale) and not _is_absorbed(each, stored)]
    if scales:
        yield "multiplier", torch.stack([scale.multiplier for scale in scales]).prod(0)
    for transform in state.transforms:
        if isinstance(transform, Rotate) and not transform.upstream:
            yield "rotation", torch.cat([factor.flatten() for factor in transform.factors])
    if state.lowrank is not None:
        yield from zip(("lowrank_up", "lowrank_down"), state.lowrank, strict=True)
    yield from _grids(layer)


def _is_absorbed(scale: Scale, stored: Collection[str]) -> bool:
    """Whether tensors of the network absorb it: a norm that time modulates has none, so that a runtime multiplies."""
    return scale.upstream or isinstance(scale.fold, ModulatedRows) or f"{scale.fold}.weight" in stored


def _grids(layer: QuantLinear) -> Iterator[tuple[str, Tensor]]:
    """Calibrated grids of the input."""
    steps, static = layer.state.steps, layer.state.static
    if steps is not None:
        yield "steps_scale", steps.scale
        if steps.zero is not None:
            yield "steps_zero", steps.zero
    elif static is not None:
        for leaf, values in zip(("act_scale", "act_zero", "act_whole"), static, strict=False):
            if values is not None:
                yield leaf, values


def _calibrated(attention: QuantAttention) -> Iterator[tuple[str, Tensor]]:
    state = attention.state
    if state.stays_float:
        return
    if state.rotation is not None:
        yield "rotation", state.rotation
    for role, scale in zip("qkv", state.scales or (), strict=False):
        yield f"scale_{role}", scale


def _absorbed(network: Network) -> dict[str | ModulatedRows, Tensor]:
    """What each norm, by name, or the rows that modulate it must absorb: what the first of its readers divides by."""
    found: dict[str | ModulatedRows, Tensor] = {}
    for group in network.groups:
        for transform in group.linears[0].state.transforms:
            if isinstance(transform, Scale) and transform.fold is not None:
                before = found.get(transform.fold)
                found[transform.fold] = transform.multiplier if before is None else before * transform.multiplier
    return found


def _folded(state: Mapping[str, Tensor], absorbed: Mapping[str | ModulatedRows, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for place, multiplier in absorbed.items():
        module = place if isinstance(place, str) else place.linear
        for leaf in ("weight", "bias"):
            name = f"{module}.{leaf}"
            if name not in state:
                continue
            values = found.get(name, state[name].detach().float())
            found[name] = values * multiplier if isinstance(place, str) else place.folded(values, multiplier)
    return {name: values.to(state[name].dtype) for name, values in found.items()}
