"""Whether a target can carry what a network was calibrated to, though it may not have been prepared for it."""

from __future__ import annotations

from collections.abc import Iterator

from llmc.calib.group import Group
from llmc.engine.network import Network, fused_by, is_carried, rotation_of
from llmc.layers.linear import QuantLinear
from llmc.layers.target import Target, carrier_of
from llmc.layers.transforms import Scale


def carried_problem(network: Network, target: Target) -> str | None:
    """Why it cannot; None if it can."""
    target = target if network.part.is_denoiser else target.for_encoders()
    return next(_problems(network, target), None)


def _problems(network: Network, target: Target) -> Iterator[str]:
    for name, layer in network.layers.items():
        if (computed := target.computed(layer.spec)) != layer.spec:
            yield f"{name} was calibrated as {layer.spec}, and it computes {computed}"
    for name, attention in network.attentions.items():
        if (other := target.computed_attention(attention.spec)) != attention.spec:
            yield f"{name} was calibrated as {attention.spec}, and it computes {other}"
    for group in network.groups:
        if any(is_scaled(layer) for layer in group.linears) and not _is_carried(group, target):
            yield f"it has no place for the scale that the input of {group.name} is multiplied by"
        if rotation_of([layer.spec for layer in group.linears], [target]) == "must" != group.rotation:
            yield f"there the input of {group.name} is always rotated, and here it is not"
    for names in fused_by([target], network.original, network.layers).values():
        one = network.layers[names[0]]
        if one.spec.weight is not None and one.spec.weight.granularity == "per_tensor" and not one.peers:
            yield f"{', '.join(names)} are one layer there, with one scale, and have one each"


def is_scaled(layer: QuantLinear) -> bool:
    """Whether the layer's input is multiplied by a Scale."""
    return any(isinstance(transform, Scale) for transform in layer.state.transforms)


def _is_carried(group: Group, target: Target) -> bool:
    if target.multiplier_dtype != group.multiplier_dtype:
        return False
    by = carrier_of([module for _, module in group.fold])
    return is_carried(by, [layer.spec for layer in group.linears], [target])
