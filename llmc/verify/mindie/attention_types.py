"""How each of MindIE's types of attention puts queries, keys and values on their grids."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from llmc.errors import ExportError
from llmc.numerics.attention_spec import AttentionSpec
from llmc.verify.storage import short

FORMATS: Mapping[str, dict[str, Any]] = {  # type -> the format of all three
    "FAQuant": {"name": "int8"},
    "FP8_DYNAMIC": {"name": "fp8_e4m3"},
    "MXFP8_DYNAMIC": {"name": "mxfp8", "exponent": "floor"},
    "MXFP4_DYNAMIC": {"name": "mxfp4", "exponent": "floor"},
}


def attention_spec(kind: str, run_dtype: torch.dtype) -> AttentionSpec:
    """The grids of a type: only int8 has calibrated scales, and fp8 has one for each block of tokens."""
    if kind not in FORMATS:
        raise ExportError(f"MindIE has no attention in {kind}; there is {', '.join(FORMATS)}")
    found: dict[str, Any] = {"qk": FORMATS[kind], "v": FORMATS[kind], "scale_dtype": short(run_dtype)}
    found["dynamic"] = kind != "FAQuant"
    found["granularity"] = "per_block" if kind == "FP8_DYNAMIC" else "per_head"
    return AttentionSpec.model_validate(found)
