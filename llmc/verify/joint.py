"""What FLUX.1, HunyuanVideo and SD3 consist of, in their own names and in diffusers': written down from the networks.

In their own layout q, k and v are one layer, and with the MLP's first in blocks of one stream: its rows are theirs.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmc.files.numbers import MOST_BLOCKS
from llmc.files.words import shown
from llmc.verify.files import Entry
from llmc.verify.listed import Listed, stacked
from llmc.verify.wan import Expected, Naming, both, lacking

# class in config.json -> a layer that only this one of the three has in its own layout, and the bias that is dim wide
TOLD_BY = {
    "FluxTransformer2DModel": ("double_blocks.0.img_attn.qkv.weight", "img_in.bias"),
    "HunyuanVideoTransformer3DModel": ("double_blocks.0.img_attn_qkv.weight", "img_in.proj.bias"),
    "SD3Transformer2DModel": ("joint_blocks.0.x_block.attn.qkv.weight", "x_embedder.proj.bias"),
}


@dataclass(frozen=True)
class Sizes:
    """What their tensors follow from."""

    kind: str
    naming: Naming
    dim: int
    double: int  # blocks of two streams
    single: int = 0
    refiners: int = 0
    guided: bool = False
    dual: Collection[int] = ()  # blocks with a second attention
    normed: bool = True  # q and k


def read_joint(config: Mapping[str, Any], entries: Mapping[str, Entry]) -> Listed | list[str] | None:
    """The network that config.json describes, or the names and shapes of its own layout; what they lack; None if it is
    none of the three."""
    sizes = sizes_of_config(config) or sizes_of_names(entries)
    if not isinstance(sizes, Sizes):
        return sizes
    make = {"FluxTransformer2DModel": _flux, "HunyuanVideoTransformer3DModel": _hunyuan, "SD3Transformer2DModel": _sd3}
    return Listed(sizes.naming, sizes.dim, sizes.double + sizes.single, tuple(make[sizes.kind](sizes)))


def sizes_of_config(config: Mapping[str, Any]) -> Sizes | list[str] | None:
    """As diffusers' config.json has them."""
    kind = config.get("_class_name")
    if not isinstance(kind, str) or kind not in TOLD_BY:
        return None
    wanted = ["num_attention_heads", "attention_head_dim", "num_layers"]
    wanted += {"FluxTransformer2DModel": ["num_single_layers"], "SD3Transformer2DModel": []}.get(
        kind, ["num_single_layers", "num_refiner_layers"]
    )
    if missing := lacking(config, wanted, ("num_single_layers", "num_refiner_layers")):
        return missing
    dual = config.get("dual_attention_layers") or ()
    if not isinstance(dual, list | tuple):
        return [f"dual_attention_layers as a list (it is {shown(repr(dual))})"]
    return Sizes(
        kind, "diffusers", config["num_attention_heads"] * config["attention_head_dim"], config["num_layers"],
        config.get("num_single_layers", 0), config.get("num_refiner_layers", 0), bool(config.get("guidance_embeds")),
        dual, config.get("qk_norm") is not None,
    )  # fmt: skip


def sizes_of_names(entries: Mapping[str, Entry]) -> Sizes | list[str] | None:
    """As the names and shapes of their own layout tell them."""
    kind = next((kind for kind, (layer, _) in TOLD_BY.items() if layer in entries), None)
    if kind is None:
        return None
    bias = TOLD_BY[kind][1]
    if bias not in entries or len(entries[bias].shape) != 1:
        return [f"the width, which is that of {bias},"]
    return Sizes(
        kind, "native", entries[bias].shape[0], _count(r"(?:double|joint)_blocks\.(\d{1,9})\.", entries),
        _count(r"single_blocks\.(\d{1,9})\.", entries),
        _count(r"txt_in\.individual_token_refiner\.blocks\.(\d{1,9})\.", entries),
        any(name.startswith("guidance_in.") for name in entries),
        _numbers(r"joint_blocks\.(\d{1,9})\.x_block\.attn2\.", entries),
        kind != "SD3Transformer2DModel" or any(".ln_q." in name for name in entries),
    )  # fmt: skip


def _count(pattern: str, names: Collection[str]) -> int:
    return max(_numbers(pattern, names), default=-1) + 1


def _numbers(pattern: str, names: Collection[str]) -> set[int]:
    """Those of blocks; no network has as many as some names could say."""
    numbers = {int(found[1]) for name in names if (found := re.match(pattern, name))}
    return {number for number in numbers if number < MOST_BLOCKS}


def _flux(s: Sizes) -> Iterator[Expected]:
    d = s.dim
    yield from both("img_in", "x_embedder", (d, "channels"))
    yield from both("txt_in", "context_embedder", (d, "text_dim"))
    for native, ours, width in _embedders(s, "time_in", "vector_in", "guidance_in"):
        yield from both(f"{native}.in_layer", f"{ours}.linear_1", (d, width))
        yield from both(f"{native}.out_layer", f"{ours}.linear_2", (d, d))
    for number in range(s.double):
        for native, stream in (("img", _IMAGE), ("txt", _TEXT)):
            there, here = f"double_blocks.{number}.{native}", f"transformer_blocks.{number}"
            yield from both(f"{there}_mod.lin", f"{here}.{stream.norm}.linear", (6 * d, d))
            yield from _attention(s, f"{there}_attn.qkv", f"{there}_attn.proj", here, stream)
            for leaf, ours in (("query", stream.norm_q), ("key", stream.norm_k)):
                yield Expected(f"{there}_attn.norm.{leaf}_norm.scale", f"{here}.{ours}.weight", ("head",))
            yield from _mlp(s, f"{there}_mlp.0", f"{there}_mlp.2", f"{here}.{stream.ff}")
    for number in range(s.single):
        there, here = f"single_blocks.{number}", f"single_transformer_blocks.{number}"
        yield from _single(s, there, here, "lin")
        for leaf, ours in (("query", "q"), ("key", "k")):
            yield Expected(f"{there}.norm.{leaf}_norm.scale", f"{here}.attn.norm_{ours}.weight", ("head",))
    yield from _final(d)


def _hunyuan(s: Sizes) -> Iterator[Expected]:
    d = s.dim
    yield from both("img_in.proj", "x_embedder.proj", (d, "channels", "frames", "patch", "patch"))
    for native, ours, width in _embedders(s, "time_in", "vector_in", "guidance_in"):
        names = ("in_layer", "out_layer") if native == "vector_in" else ("mlp.0", "mlp.2")
        yield from both(f"{native}.{names[0]}", f"{ours}.linear_1", (d, width))
        yield from both(f"{native}.{names[1]}", f"{ours}.linear_2", (d, d))
    yield from both("txt_in.input_embedder", "context_embedder.proj_in", (d, "text_dim"))
    embedder = "context_embedder.time_text_embed"
    yield from both("txt_in.t_embedder.mlp.0", f"{embedder}.timestep_embedder.linear_1", (d, "time_dim"))
    yield from both("txt_in.t_embedder.mlp.2", f"{embedder}.timestep_embedder.linear_2", (d, d))
    yield from both("txt_in.c_embedder.linear_1", f"{embedder}.text_embedder.linear_1", (d, "text_dim"))
    yield from both("txt_in.c_embedder.linear_2", f"{embedder}.text_embedder.linear_2", (d, d))
    for number in range(s.refiners):
        there = f"txt_in.individual_token_refiner.blocks.{number}"
        here = f"context_embedder.token_refiner.refiner_blocks.{number}"
        for norm in ("norm1", "norm2"):
            yield from both(f"{there}.{norm}", f"{here}.{norm}", (d,))
        yield from both(f"{there}.adaLN_modulation.1", f"{here}.norm_out.linear", (2 * d, d))
        qkv = {f"{here}.attn.to_{name}": d for name in "qkv"}
        yield from stacked(s.naming, f"{there}.self_attn_qkv", qkv, d, quantized=False)
        yield from both(f"{there}.self_attn_proj", f"{here}.attn.to_out.0", (d, d))
        yield from both(f"{there}.mlp.fc1", f"{here}.ff.net.0.proj", (4 * d, d))
        yield from both(f"{there}.mlp.fc2", f"{here}.ff.net.2", (d, 4 * d))
    for number in range(s.double):
        for native, stream in (("img", _IMAGE), ("txt", _TEXT)):
            there, here = f"double_blocks.{number}.{native}", f"transformer_blocks.{number}"
            yield from both(f"{there}_mod.linear", f"{here}.{stream.norm}.linear", (6 * d, d))
            yield from _attention(s, f"{there}_attn_qkv", f"{there}_attn_proj", here, stream)
            for leaf, ours in (("q", stream.norm_q), ("k", stream.norm_k)):
                yield Expected(f"{there}_attn_{leaf}_norm.weight", f"{here}.{ours}.weight", ("head",))
            yield from _mlp(s, f"{there}_mlp.fc1", f"{there}_mlp.fc2", f"{here}.{stream.ff}")
    for number in range(s.single):
        there, here = f"single_blocks.{number}", f"single_transformer_blocks.{number}"
        yield from _single(s, there, here, "linear")
        for leaf in ("q", "k"):
            yield Expected(f"{there}.{leaf}_norm.weight", f"{here}.attn.norm_{leaf}.weight", ("head",))
    yield from _final(d)


def _sd3(s: Sizes) -> Iterator[Expected]:
    d = s.dim
    yield Expected("pos_embed", "pos_embed.pos_embed", (1, "positions", d))
    yield from both("x_embedder.proj", "pos_embed.proj", (d, "channels", "patch", "patch"))
    yield from both("context_embedder", "context_embedder", (d, "text_dim"))
    for native, ours, width in _embedders(s, "t_embedder", "y_embedder"):
        yield from both(f"{native}.mlp.0", f"{ours}.linear_1", (d, width))
        yield from both(f"{native}.mlp.2", f"{ours}.linear_2", (d, d))
    for number in range(s.double):
        here = f"transformer_blocks.{number}"
        for native, stream in (("x", _IMAGE), ("context", _TEXT)):
            there = f"joint_blocks.{number}.{native}_block"
            dual, last = native == "x" and number in s.dual, native == "context" and number == s.double - 1
            chunks = 9 if dual else 2 if last else 6
            yield from both(f"{there}.adaLN_modulation.1", f"{here}.{stream.norm}.linear", (chunks * d, d))
            yield from _attention(s, f"{there}.attn.qkv", "" if last else f"{there}.attn.proj", here, stream)
            pairs = [(f"{there}.attn.ln_q", stream.norm_q), (f"{there}.attn.ln_k", stream.norm_k)]
            if dual:
                yield from _attention(s, f"{there}.attn2.qkv", f"{there}.attn2.proj", here, _SECOND)
                pairs += [(f"{there}.attn2.ln_q", _SECOND.norm_q), (f"{there}.attn2.ln_k", _SECOND.norm_k)]
            for theirs, ours in pairs if s.normed else ():
                yield Expected(f"{theirs}.weight", f"{here}.{ours}.weight", ("head",))
            if not last:
                yield from _mlp(s, f"{there}.mlp.fc1", f"{there}.mlp.fc2", f"{here}.{stream.ff}")
    yield from _final(d)


@dataclass(frozen=True)
class _Stream:
    """diffusers' names of one of two streams."""

    norm: str
    qkv: tuple[str, str, str]
    norm_q: str
    norm_k: str
    out: str
    ff: str
    carries: bool = False  # v what its output projection reads: elsewhere two streams mix in between


_IMAGE = _Stream("norm1", ("attn.to_q", "attn.to_k", "attn.to_v"), "attn.norm_q", "attn.norm_k", "attn.to_out.0", "ff")
_TEXT = _Stream("norm1_context", ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
                "attn.norm_added_q", "attn.norm_added_k", "attn.to_add_out", "ff_context")  # fmt: skip
_SECOND = _Stream("norm1", ("attn2.to_q", "attn2.to_k", "attn2.to_v"), "attn2.norm_q", "attn2.norm_k",
                  "attn2.to_out.0", "ff", carries=True)  # fmt: skip


def _attention(s: Sizes, qkv: str, proj: str, here: str, stream: _Stream) -> Iterator[Expected]:
    rows = {f"{here}.{name}": s.dim for name in stream.qkv}
    yield from stacked(s.naming, qkv, rows, s.dim, carries=stream.carries)
    if proj:
        yield from stacked(s.naming, proj, {f"{here}.{stream.out}": s.dim}, s.dim)


def _mlp(s: Sizes, first: str, second: str, here: str) -> Iterator[Expected]:
    yield from stacked(s.naming, first, {f"{here}.net.0.proj": 4 * s.dim}, s.dim)
    yield from stacked(s.naming, second, {f"{here}.net.2": s.dim}, 4 * s.dim)


def _single(s: Sizes, there: str, here: str, modulation: str) -> Iterator[Expected]:
    d = s.dim
    yield from both(f"{there}.modulation.{modulation}", f"{here}.norm.linear", (3 * d, d))
    rows = {f"{here}.attn.to_{name}": d for name in "qkv"} | {f"{here}.proj_mlp": 4 * d}
    yield from stacked(s.naming, f"{there}.linear1", rows, d)
    yield from stacked(s.naming, f"{there}.linear2", {f"{here}.proj_out": d}, 5 * d)


def _embedders(s: Sizes, time: str, text: str, guidance: str = "") -> Iterator[tuple[str, str, str]]:
    yield time, "time_text_embed.timestep_embedder", "time_dim"
    yield text, "time_text_embed.text_embedder", "pooled_dim"
    if s.guided:
        yield guidance, "time_text_embed.guidance_embedder", "time_dim"


def _final(dim: int) -> Iterator[Expected]:
    yield from both("final_layer.adaLN_modulation.1", "norm_out.linear", (2 * dim, dim))
    yield from both("final_layer.linear", "proj_out", ("out", dim))
