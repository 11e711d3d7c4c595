"""The grids of the dialect: which (scheme, method) pairs it knows, and what each is here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from llmc.compat.modelslim.schema import LinearQConfig, QConfig

Side = Literal["act", "weight"]
Scheme = tuple[str, str, bool]  # dtype, scope, symmetric

# msModelSlim's own registry of schemes, and of the methods that find their ranges
LEGAL: Mapping[Side, Mapping[Scheme, tuple[str, ...]]] = {
    "act": {
        ("int8", "per_tensor", True): ("minmax", "histogram"),
        ("int8", "per_tensor", False): ("minmax", "histogram"),
        ("int8", "per_token", True): ("minmax",),
        ("int8", "per_token", False): ("minmax",),
        ("int8", "per_channel", True): ("minmax",),
        ("int8", "per_channel", False): ("minmax",),
        ("int8", "pd_mix", False): ("minmax",),
        ("fp8_e4m3", "per_tensor", True): ("minmax",),
        ("fp8_e4m3", "per_token", True): ("minmax",),
        ("fp8_e4m3", "per_channel", True): ("minmax",),
        ("mxfp8", "per_block", True): ("minmax",),
        ("mxfp4", "per_block", True): ("minmax",),
        ("mxfp4", "dual_scale", True): ("dualscale",),
        ("float", "per_tensor", True): ("none",),
    },
    "weight": {
        ("int8", "per_channel", True): ("minmax", "ssz", "gptq"),
        ("int8", "per_channel", False): ("gptq",),
        ("int8", "per_group", True): ("gptq",),
        ("int8", "per_group", False): ("gptq",),
        ("int4", "per_channel", True): ("minmax", "ssz", "gptq"),
        ("int4", "per_channel", False): ("gptq",),
        ("int4", "per_group", True): ("gptq",),
        ("int4", "per_group", False): ("gptq",),
        ("fp8_e4m3", "per_channel", True): ("minmax",),
        ("mxfp8", "per_block", True): ("minmax", "mse_round"),
        ("mxfp4", "per_block", True): ("minmax", "ceil_x", "fouroversix"),
        ("mxfp4", "dual_scale", True): ("dualscale",),
    },
}
ABSENT: Mapping[str, str] = {
    "pd_mix": "it is for the two phases of a language model, which a video model has not: write scope per_token",
    "per_channel": "a scale for each input channel cannot be taken out of a product: write scope per_tensor",
    "fouroversix": "its choice of two ranges is for scales that are no powers of two: write method minmax or ceil_x",
}
BITS: Mapping[str, int | str] = {"int8": 8, "int4": 4, "fp8_e4m3": "e4m3", "mxfp8": "mxfp8", "mxfp4": "mxfp4"}
LEAST_SQUARES = {"name": "RTN", "range": "mse"}
# what rounds weights; the searched ones look for the range of least squared error, each in its own way
ROUNDING: Mapping[str, dict[str, Any]] = {
    "minmax": {"name": "RTN"},
    "dualscale": {"name": "RTN"},
    "ssz": LEAST_SQUARES,
    "mse_round": LEAST_SQUARES,
    "ceil_x": LEAST_SQUARES,
    "gptq": {"name": "GPTQ"},
}
# settings in `ext` that change nothing here, with the only values for which that is so (None: any)
HARMLESS: Mapping[str, Any] = {
    "aggregation_type": "max",
    "axes": -1,
    "enable_search": True,
    "step": None,
    "dual_block_size": 512,
}
GPTQ_EXT = ("percdamp", "block_size", "group_size")


def problem_of(qconfig: QConfig, side: Side) -> tuple[str, str] | None:
    """The key that is wrong and why, with what is legal; None if the grid can be had."""
    schemes = LEGAL[side]
    own = (qconfig.dtype, qconfig.scope, qconfig.symmetric)
    if own not in schemes:
        near = [scheme for scheme in schemes if scheme[0] == qconfig.dtype] or list(schemes)
        return "scope", f"{_said(own)} is no grid of {side}s; allowed: {'; '.join(map(_said, near))}"
    if qconfig.method not in schemes[own]:
        return "method", f"it is {qconfig.method}; {_said(own)} is found by {' or '.join(schemes[own])}"
    for key, word in (("scope", qconfig.scope), ("method", qconfig.method)):
        if word in ABSENT and not (side == "weight" and word == "per_channel"):
            return key, f"it is {word}; {ABSENT[word]}"
    known = {**HARMLESS, **(dict.fromkeys(GPTQ_EXT) if qconfig.method == "gptq" else {})}
    for key, value in qconfig.ext.items():
        if key not in known or known[key] not in (None, value):
            allowed = ", ".join(name if value is None else f"{name}: {value}" for name, value in known.items())
            return "ext", f"{key}: {value} has no counterpart here; leave it out (understood are {allowed})"
    return None


def grid_of(qconfig: QConfig, side: Side) -> dict[str, Any] | None:
    """A grid in the words of `quant`; None: float."""
    if qconfig.dtype == "float":
        return None
    if qconfig.scope == "per_block":
        return {"bit": BITS[qconfig.dtype]}
    if qconfig.scope == "dual_scale":
        return {"bit": "mxfp4dual"}
    grid: dict[str, Any] = {
        "bit": BITS[qconfig.dtype], "symmetric": qconfig.symmetric, "granularity": qconfig.scope
    }  # fmt: skip
    if qconfig.scope == "per_group":
        grid["group_size"] = qconfig.ext.get("group_size", 128)
    if side == "act" and qconfig.scope == "per_tensor":
        grid["static"] = True
    return grid


def rounding_of(weight: QConfig) -> dict[str, Any]:
    """The method that rounds such a weight."""
    damping = {"damping": weight.ext["percdamp"]} if "percdamp" in weight.ext else {}
    return ROUNDING[weight.method] | damping


def grids_of(qconfig: LinearQConfig) -> dict[str, Any]:
    """Both grids of a linear."""
    return {"weight": grid_of(qconfig.weight, "weight"), "act": grid_of(qconfig.act, "act")}


def _said(scheme: Scheme) -> str:
    dtype, scope, symmetric = scheme
    return f"{dtype} {scope} {'symmetric' if symmetric else 'asymmetric'}"
