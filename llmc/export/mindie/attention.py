"""What MindIE-SD stores and computes of quantized attention: three generations of it, on two kinds of chips.

2.3 reads a calibrated int8 scale for each head; 3 dropped that, and measures fp8 scales at run time, for which it
reads a rotation; the state of July 2026 also knows microscaling. Types that it does not know it passes over without a
word, so that nothing but those is written.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from llmc.errors import ExportError
from llmc.export.mindie.types import Version
from llmc.export.part import LazyTensor, kept
from llmc.numerics.attention_spec import ROLES, AttentionSpec
from llmc.numerics.spec import ScaleDtype
from llmc.renames import Fused, Original

if TYPE_CHECKING:
    from llmc.layers.attention import QuantAttention

INT8, FLOAT = "FAQuant", "FLOAT"


@dataclass(frozen=True)
class AttentionType:
    """One type string: since which versions it is read, and whether its class stops without rotations."""

    name: str
    versions: tuple[Version, ...]
    needs_rotation: bool


TYPES: Mapping[str, AttentionType] = {
    "int8": AttentionType(INT8, ("2.3",), needs_rotation=False),
    "fp8_e4m3": AttentionType("FP8_DYNAMIC", (3, "2026-07"), needs_rotation=True),
    "mxfp8": AttentionType("MXFP8_DYNAMIC", ("2026-07",), needs_rotation=True),
    "mxfp4": AttentionType("MXFP4_DYNAMIC", ("2026-07",), needs_rotation=False),
}


def attention_problem(spec: AttentionSpec, version: Version, soc: str) -> str | None:
    """Why this MindIE on this chip cannot run attentions that are quantized so; None if it can."""
    if spec.qk.name != spec.v.name:
        return f"it knows no type of q and k in {spec.qk.name} with v in {spec.v.name}; leave v_bit out"
    found = TYPES.get(spec.qk.name)
    if found is None:
        return f"it has no attention in {spec.qk.name}; there is {', '.join(TYPES)}"
    if version not in found.versions:
        readers = " and ".join(f"`mindie_version: {known}`" for known in found.versions)
        gone = "; int8 attention is gone since MindIE-SD 3, where fp8 took its place" if found.name == INT8 else ""
        advice = f"`--set save.mindie.mindie_version={found.versions[0]}`, or give attention another grid"
        return f"{found.name} is read by {readers} alone, found {version}{gone}: {advice}"
    if (soc == "a5") == (found.name == INT8):
        chips = "a2 and a3" if found.name == INT8 else "a5"
        return f"attention in {spec.qk.name} runs on {chips} alone; found `soc: {soc}`"
    if found.name == INT8 and (spec.dynamic or spec.rotate):
        return "its int8 attention reads calibrated scales and no rotation; write `static: True`, and leave rotate out"
    if found.name != INT8 and not spec.dynamic:
        return f"{found.name} measures scales at run time; write `static: False`"
    if found.needs_rotation and not spec.rotate:
        return f"{found.name} stops without the rotations of queries and keys; write `rotate: online`"
    return None


def computed_attention(spec: AttentionSpec, scale_dtype: ScaleDtype) -> AttentionSpec:
    """The spec as its kernels compute with it: fp8 in blocks of tokens, powers of two that never exceed the largest
    value's, and what is stored exact in the type that it is stored in."""
    changes: dict[str, object] = {"scale_dtype": scale_dtype}
    if spec.qk.name == "fp8_e4m3":
        changes["granularity"] = "per_block"
    if spec.qk.group_size is not None:
        changes |= {role: getattr(spec, role).model_copy(update={"exponent": "floor"}) for role in ("qk", "v")}
    return spec.model_copy(update=changes)


def attention_tensors(
    attentions: Mapping[str, QuantAttention], table: Original
) -> tuple[dict[str, LazyTensor], dict[str, str]]:
    """All tensors of the attentions that are quantized, and what the description says, by names of the runtime."""
    tensors: dict[str, LazyTensor] = {}
    says: dict[str, str] = {}
    for name, attention in attentions.items():
        if attention.state.stays_float:
            continue
        target, kind = runtime_attention(name, table), TYPES[attention.spec.qk.name].name
        own = _calibrated(attention) if kind == INT8 else _rotations(attention)
        tensors |= {f"{target}.{leaf}": tensor for leaf, tensor in own.items()}
        says |= {f"{target}.{leaf}": INT8 if kind == INT8 else FLOAT for leaf in own}
        says |= {"fa_quant_type": INT8} if kind == INT8 else {f"{target}.quant_type": kind}
    return tensors, says


def runtime_attention(name: str, table: Original) -> str:
    """The module in which the runtime's repository attends: the one that holds the linear of our queries, which in
    joint networks is a whole block."""
    number = re.search(r"\.(\d+)\.", name)
    ours = re.sub(r"\.\d+\.", ".{}.", f"{name}.to_q", count=1)
    for row in table:
        target = _target(ours, row)
        if target is not None and number is not None:
            return target.format(number.group(1)).rpartition(".")[0]
    raise ExportError(f"{name} has no known name in the repository that MindIE runs; exclude it from quant.attention")


def _target(ours: str, row: object) -> str | None:
    """What a row of the table makes of a linear; None if it is about others."""
    if isinstance(row, Fused):
        return row.target if ours in row.sources else None
    if isinstance(row, tuple) and f"{ours}.".startswith(f"{row[0]}."):  # the linear itself, or what it lies in
        return f"{row[1]}{ours.removeprefix(row[0])}"
    return None


def _calibrated(attention: QuantAttention) -> dict[str, LazyTensor]:
    """A scale (heads, 1) of each of the three, and offsets, which are none."""
    assert attention.state.scales is not None
    dtype: torch.dtype = getattr(torch, attention.spec.scale_dtype)
    tensors = {}
    for role, scale in zip(ROLES, attention.state.scales, strict=True):
        tensors[f"fa_{role}.scale"] = kept(scale.reshape(-1, 1).to(dtype))
        tensors[f"fa_{role}.offset"] = kept(torch.zeros(len(scale), 1, dtype=torch.int8))
    return tensors


def _rotations(attention: QuantAttention) -> dict[str, LazyTensor]:
    """The matrix (width, width) by which queries are multiplied, and keys: one matrix, so that products stay."""
    if attention.state.rotation is None:
        return {}
    rotation = attention.state.rotation.to(getattr(torch, attention.spec.scale_dtype))
    return {"q_rot": kept(rotation), "k_rot": kept(rotation.clone())}
