"""A Wan network's blocks in plain torch, by native names: what a runtime computes, but for rotary positions.

No weight takes part in positions, and no diffusers is needed, so that one block at a time is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, linear, scaled_dot_product_attention, silu

from llmc.verify.wan import Wan

EPS = 1e-6
TOKENS, TEXT_TOKENS, IMAGE_TOKENS = 16, 8, 4
Read = Callable[[str], Tensor]  # a float tensor of the network by its native name
Multiply = Mapping[str, Callable[[Tensor], Tensor]]  # the linears of a block by their names in it


@dataclass(frozen=True)
class Inputs:
    """What the first block is given."""

    x: Tensor  # (tokens, dim)
    text: Tensor  # (text tokens, dim)
    image: Tensor | None  # (image tokens, dim)
    time: Tensor  # (6, dim)


def tiny_inputs(wan: Wan, read: Read, images: bool) -> Inputs:
    """Noise, taken through the network's own embeddings."""
    generator = torch.Generator().manual_seed(0)

    def noise(rows: int, width: int) -> Tensor:
        return torch.randn(rows, width, generator=generator)

    def through(name: str, x: Tensor) -> Tensor:
        return linear(x, read(f"{name}.weight").flatten(1), read(f"{name}.bias"))

    text = through("text_embedding.0", noise(TEXT_TOKENS, read("text_embedding.0.weight").shape[1]))
    time = through("time_embedding.2", silu(through("time_embedding.0", _sinusoid(500.0, wan.freq_dim))))
    image = None
    if images:
        norm = read("img_emb.proj.0.weight")
        image = layer_norm(noise(IMAGE_TOKENS, len(norm)), norm.shape, norm, read("img_emb.proj.0.bias"))
        image = through("img_emb.proj.3", gelu(through("img_emb.proj.1", image)))
        image = layer_norm(image, (wan.dim,), read("img_emb.proj.4.weight"), read("img_emb.proj.4.bias"))
    return Inputs(
        through("patch_embedding", noise(TOKENS, read("patch_embedding.weight").flatten(1).shape[1])),
        through("text_embedding.2", gelu(text, approximate="tanh")),
        image,
        through("time_projection.1", silu(time)).reshape(6, wan.dim),
    )


def run_block(x: Tensor, inputs: Inputs, heads: int, own: Mapping[str, Tensor], multiply: Multiply) -> Tensor:
    """One block on x (tokens, dim); `own` are its float tensors by their names within the block."""
    shift, scale, gate, ffn_shift, ffn_scale, ffn_gate = own["modulation"][0] + inputs.time
    h = _modulated(x, scale, shift, own, "affine_norm1")
    q, k, v = (multiply[f"self_attn.{name}"](h) for name in "qkv")
    q, k = _rms(q, own["self_attn.norm_q.weight"]), _rms(k, own["self_attn.norm_k.weight"])
    x = x + multiply["self_attn.o"](_attend(q, k, v, heads)) * gate
    h = layer_norm(x, x.shape[-1:], own["norm3.weight"], own["norm3.bias"], EPS)
    q = _rms(multiply["cross_attn.q"](h), own["cross_attn.norm_q.weight"])
    k = _rms(multiply["cross_attn.k"](inputs.text), own["cross_attn.norm_k.weight"])
    attended = _attend(q, k, multiply["cross_attn.v"](inputs.text), heads)
    if inputs.image is not None:
        k = _rms(multiply["cross_attn.k_img"](inputs.image), own["cross_attn.norm_k_img.weight"])
        attended = attended + _attend(q, k, multiply["cross_attn.v_img"](inputs.image), heads)
    x = x + multiply["cross_attn.o"](attended)
    h = _modulated(x, ffn_scale, ffn_shift, own, "affine_norm3")
    inner = gelu(multiply["ffn.0"](h), approximate="tanh")
    y: Tensor = x + multiply["ffn.2"](inner) * ffn_gate
    return y


def _modulated(x: Tensor, scale: Tensor, shift: Tensor, own: Mapping[str, Tensor], norm: str) -> Tensor:
    """A norm without weight, scaled and shifted by time; smoothing multiplies both."""
    weight, bias = own.get(f"{norm}.weight"), own.get(f"{norm}.bias")
    factor, offset = 1 + scale, shift
    if weight is not None and bias is not None:
        factor, offset = factor * weight, offset * bias
    return layer_norm(x, x.shape[-1:], eps=EPS) * factor + offset


def _rms(x: Tensor, weight: Tensor) -> Tensor:
    normed: Tensor = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS) * weight
    return normed


def _attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    q, k, v = (t.reshape(len(t), heads, -1).transpose(0, 1) for t in (q, k, v))
    return scaled_dot_product_attention(q, k, v).transpose(0, 1).flatten(1)


def _sinusoid(timestep: float, width: int) -> Tensor:
    angles = timestep * torch.pow(10000.0, -torch.arange(width // 2) / (width // 2))
    return torch.cat([angles.cos(), angles.sin()])[None]
