"""What can be known to fail of the attentions of a model, told from its configuration."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from llmc.engine.attention import attention_names, attentions_of, head_width
from llmc.errors import UnsupportedSpec
from llmc.export.base import Exporter
from llmc.models.parts import Part
from llmc.numerics.attention_spec import AttentionSpec
from llmc.policy.attention import AttentionPolicy


def check_attentions(parts: Sequence[Part], policy: AttentionPolicy | None, exporters: Sequence[Exporter]) -> None:
    """Refuse globs that match nothing, and attentions that the format or a target cannot take; skeletons will do."""
    if policy is None:
        return
    parts = [part for part in parts if part.is_denoiser]
    policy.check({part.name: attention_names(part) for part in parts})
    for part in parts:
        for name, module, asks_itself in attentions_of(part):
            if (spec := policy.spec_of(name, part.name)) is not None:
                _check_attention(name, module, asks_itself, spec, exporters)


def _check_attention(
    name: str, module: nn.Module, asks_itself: bool, spec: AttentionSpec, exporters: Sequence[Exporter]
) -> None:
    group, width = spec.qk.group_size, head_width(module)
    if group is not None and width % group:
        raise UnsupportedSpec(
            f"{spec.qk.name} has one scale for every {group} neighbours, which do not divide the {width} "
            f"values of a head of {name}; choose e4m3 or 8"
        )
    for exporter in exporters if not asks_itself else ():
        if exporter.no_cross_attention is not None:
            raise UnsupportedSpec(f"{name} is a cross-attention, and {exporter.no_cross_attention}; exclude it")
