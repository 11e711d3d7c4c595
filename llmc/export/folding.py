"""Smoothing as files keep it: in rows of the linear before or of the one that modulates a norm, in an affine norm, or
beside a norm without weight."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import torch

from llmc.export.part import FinishedPart, LazyTensor, kept, unquantized_tensors
from llmc.layers.transforms import ModulatedRows, Scale

if TYPE_CHECKING:
    from llmc.layers.linear import QuantLinear

MODULATED_NORMS = ("norm1", "norm3")  # scaled and shifted by time, so that a multiplier must stand on both


def multipliers(part: FinishedPart) -> dict[str | ModulatedRows, torch.Tensor]:
    """The product of all Scales that each norm must absorb, by the norm's name or by the rows that modulate it."""
    found: dict[str | ModulatedRows, torch.Tensor] = {}
    for layer in _first_of_each_norm(part.layers.values()):
        for scale in _folded_scales(layer):
            assert scale.fold is not None
            before = found.get(scale.fold)
            found[scale.fold] = scale.multiplier if before is None else before * scale.multiplier
    return found


def absorbed_tensors(part: FinishedPart) -> dict[str, LazyTensor]:
    """Every tensor that no quantized layer owns, with smoothing folded into affine norms and modulation linears."""
    tensors, found = unquantized_tensors(part), multipliers(part)
    folded = {name: kept(tensor) for name, tensor in tensors.items()}
    for norm, multiplier in found.items():
        for leaf in ("weight", "bias"):
            if (tensor := tensors.get(f"{norm}.{leaf}")) is not None:
                folded[f"{norm}.{leaf}"] = kept((tensor.detach().float() * multiplier).to(tensor.dtype))
    return folded | _modulations(tensors, found)


def folded_tensors(part: FinishedPart) -> dict[str, LazyTensor]:
    """Tensors as `absorbed_tensors` has them; where a modulated norm is smoothed, that is left to the runtime: then all
    blocks have `affine_norm1/3`, of ones where nothing is smoothed."""
    folded = absorbed_tensors(part)
    norms = {norm: multiplier for norm, multiplier in multipliers(part).items() if isinstance(norm, str)}
    return folded | _affine_norms(part, norms) if any(f"{norm}.weight" not in folded for norm in norms) else folded


def left_multiplier(layer: QuantLinear, absorbed: Container[str]) -> torch.Tensor | None:
    """By what a runtime must multiply the input of a layer: all Scales but those that linears or norms absorbed."""
    left = [
        scale.multiplier for scale in _scales(layer)
        if not (scale.upstream or isinstance(scale.fold, ModulatedRows) or f"{scale.fold}.weight" in absorbed)
    ]  # fmt: skip
    return torch.stack(left).prod(0) if left else None


def transformed_tensors(name: str, layer: QuantLinear) -> dict[str, LazyTensor]:
    """Weight and bias of one layer in its new basis, unrounded, in the model's own type."""
    dtype = layer.dtype
    weight = LazyTensor(dtype, (layer.out_features, layer.in_features), lambda: layer.float_weight().to(dtype).cpu())
    return {f"{name}.weight": weight, **_in_model_type(f"{name}.bias", layer.float_bias(), layer)}


def bias_tensor(name: str, layer: QuantLinear) -> dict[str, LazyTensor]:
    """The bias that goes with the rounded weight, if there is one, in the model's own type."""
    return _in_model_type(f"{name}.bias", layer.final_bias(), layer)


def _in_model_type(name: str, tensor: torch.Tensor | None, layer: QuantLinear) -> dict[str, LazyTensor]:
    return {} if tensor is None else {name: kept(tensor.to(layer.dtype))}


def is_smoothed_at_run_time(tensors: Iterable[str]) -> bool:
    """Whether the runtime has to be told of `affine_norm` tensors."""
    return any(".affine_norm" in name for name in tensors)


def _modulations(
    tensors: Mapping[str, torch.Tensor], found: Mapping[str | ModulatedRows, torch.Tensor]
) -> dict[str, LazyTensor]:
    """The linears that modulate smoothed norms; one may modulate several."""
    linears = defaultdict(list)
    for rows, multiplier in found.items():
        if isinstance(rows, ModulatedRows):
            linears[rows.linear].append((rows, multiplier))

    def make(name: str) -> torch.Tensor:
        value = tensors[name].detach().float()
        for rows, multiplier in linears[name.rpartition(".")[0]]:
            value = rows.folded(value, multiplier)
        return value.to(tensors[name].dtype).cpu()

    names = [f"{linear}.{leaf}" for linear in linears for leaf in ("weight", "bias")]
    return {name: LazyTensor(tensors[name].dtype, tuple(tensors[name].shape), partial(make, name)) for name in names}


def _affine_norms(part: FinishedPart, found: Mapping[str, torch.Tensor]) -> dict[str, LazyTensor]:
    tensors = {}
    for block in sorted({".".join(name.split(".")[:2]) for name in part.layers}):
        for norm in MODULATED_NORMS:
            width = next(layer.in_features for name, layer in part.layers.items() if name.startswith(f"{block}."))
            multiplier = found.get(f"{block}.{norm}", torch.ones(width))
            for leaf in ("weight", "bias"):  # one multiplies (1 + scale), the other the shift
                tensors[f"{block}.affine_{norm}.{leaf}"] = kept(multiplier)
    return tensors


def _first_of_each_norm(layers: Iterable[QuantLinear]) -> list[QuantLinear]:
    """Linears that read one norm share its Scales: one of them speaks for all."""
    first: dict[tuple[str | ModulatedRows | None, ...], QuantLinear] = {}
    for layer in layers:
        if scales := _folded_scales(layer):
            first.setdefault(tuple(scale.fold for scale in scales), layer)
    return list(first.values())


def _folded_scales(layer: QuantLinear) -> list[Scale]:
    return [scale for scale in _scales(layer) if scale.fold is not None]


def _scales(layer: QuantLinear) -> list[Scale]:
    return [transform for transform in layer.state.transforms if isinstance(transform, Scale)]
