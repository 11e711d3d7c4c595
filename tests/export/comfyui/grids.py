"""A grid for every form of ComfyUI."""

from __future__ import annotations

from typing import Any

from llmc.numerics.spec import LayerSpec, TensorSpec


def grid(format_: str, granularity: str | None = None, **own: Any) -> TensorSpec:
    return TensorSpec.model_validate({"format": format_, "granularity": granularity, **own})


TOKENS = grid("int8", "per_token")
GRIDS = {
    "int8": LayerSpec(weight=grid("int8", "per_channel"), act=TOKENS),
    "int8 per tensor": LayerSpec(weight=grid("int8", "per_tensor"), act=TOKENS),
    "fp8": LayerSpec(weight=grid("fp8_e4m3", "per_tensor"), act=grid("fp8_e4m3", "per_tensor", dynamic=False)),
    "fp8 weights alone": LayerSpec(weight=grid("fp8_e4m3", "per_tensor")),
    "e5m2": LayerSpec(weight=grid("fp8_e5m2", "per_tensor"), act=grid("fp8_e5m2", "per_tensor", dynamic=False)),
    "w4a4": LayerSpec(weight=grid("int4", "per_channel"), act=grid("int4", "per_token")),
    "w4a8": LayerSpec(weight=grid("codebook4", "per_channel"), act=TOKENS),
    "awq": LayerSpec(weight=grid("int4", "per_group", group_size=32, symmetric=False)),
    "nvfp4": LayerSpec(weight=grid("nvfp4"), act=grid("nvfp4")),
    "nvfp4 static": LayerSpec(weight=grid("nvfp4"), act=grid("nvfp4", dynamic=False)),
    "nvfp4 weights alone": LayerSpec(weight=grid("nvfp4")),
    "mxfp8": LayerSpec(weight=grid("mxfp8"), act=grid("mxfp8")),
}
MIXED = {  # layers -> the form that they have in one file
    "blocks.*.attn1.to_[qkv]": "w4a4",
    "blocks.*.attn1.to_out.0": "fp8",
    "blocks.*.attn2.to_q": "nvfp4",
    "blocks.*.ffn.net.0.proj": "mxfp8",
    "blocks.*.ffn.net.2": "w4a8",
}
