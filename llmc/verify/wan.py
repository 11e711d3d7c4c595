"""What a Wan network consists of, told from its config.json alone: names in both schemes, and shapes.

Written down from the network itself, apart from the tables that rename it when it is exported.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

from llmc.files.numbers import LARGEST, MOST_BLOCKS, is_whole
from llmc.files.words import shown

Size = int | str  # a word stands for a size that the config does not say; it must be the same wherever it occurs
Naming = Literal["native", "diffusers"]


@dataclass(frozen=True)
class Expected:
    """A tensor that must be there, by its names, and its shape."""

    native: str
    diffusers: str
    shape: tuple[Size, ...]
    of_images: bool = False  # belongs to the projections of an image encoder's output

    def name(self, naming: Naming) -> str:
        """As a folder of that scheme calls it."""
        return self.native if naming == "native" else self.diffusers


@dataclass(frozen=True)
class Linear(Expected):
    """A linear that is quantized, by its names without `.weight`; its shape is (outputs, inputs)."""

    sources: tuple[tuple[str, int], ...] = ()  # diffusers' layers that it is made of, and their rows; empty: one
    carries: bool = False  # whether its rows may carry a smoothing of what reads them

    @property
    def parts(self) -> tuple[tuple[str, int], ...]:
        """diffusers' layers that it is made of, and their rows."""
        rows = self.shape[0]
        assert isinstance(rows, int)
        return self.sources or ((self.diffusers, rows),)


@dataclass(frozen=True)
class Wan:
    """The sizes of one network."""

    naming: Naming
    dim: int
    heads: int
    layers: int
    in_dim: int
    out_dim: int
    ffn_dim: int
    freq_dim: int
    text_dim: Size
    patch: tuple[int, ...]
    images: bool | None  # whether it projects an image encoder's output; None: the config does not say
    vace_layers: int = 0
    vace_in_dim: Size = "vace_in_dim"

    def linears(self) -> Iterator[Linear]:
        """Every linear that a scheme quantizes."""
        for blocks, count in (("blocks", self.layers), ("vace_blocks", self.vace_layers)):
            for number in range(count):
                yield from self._block_linears(f"{blocks}.{number}")

    def _block_linears(self, block: str) -> Iterator[Linear]:
        d, f = self.dim, self.ffn_dim
        for native, diffusers in (("self_attn", "attn1"), ("cross_attn", "attn2")):
            for ours, theirs in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("o", "to_out.0")):
                yield Linear(f"{block}.{native}.{ours}", f"{block}.{diffusers}.{theirs}", (d, d))
        if self.images is not False:
            for ours, theirs in (("k_img", "add_k_proj"), ("v_img", "add_v_proj")):
                yield Linear(f"{block}.cross_attn.{ours}", f"{block}.attn2.{theirs}", (d, d), of_images=True)
        yield Linear(f"{block}.ffn.0", f"{block}.ffn.net.0.proj", (f, d))
        yield Linear(f"{block}.ffn.2", f"{block}.ffn.net.2", (d, f))

    def float_tensors(self) -> Iterator[Expected]:
        """Everything else but multipliers of modulated norms, and the linears' biases with it."""
        d = self.dim
        yield from both("patch_embedding", "patch_embedding", (d, self.in_dim, *self.patch))
        embedder = "condition_embedder"
        yield from both("text_embedding.0", f"{embedder}.text_embedder.linear_1", (d, self.text_dim))
        yield from both("text_embedding.2", f"{embedder}.text_embedder.linear_2", (d, d))
        yield from both("time_embedding.0", f"{embedder}.time_embedder.linear_1", (d, self.freq_dim))
        yield from both("time_embedding.2", f"{embedder}.time_embedder.linear_2", (d, d))
        yield from both("time_projection.1", f"{embedder}.time_proj", (6 * d, d))
        yield from both("head.head", "proj_out", (self.out_dim * prod(self.patch), d))
        yield Expected("head.modulation", "scale_shift_table", (1, 2, d))
        if self.images is not False:
            yield from _image_embedder(d)
        for blocks, count in (("blocks", self.layers), ("vace_blocks", self.vace_layers)):
            for number in range(count):
                yield from self._block_tensors(f"{blocks}.{number}")
        if self.vace_layers:
            yield from both("vace_patch_embedding", "vace_patch_embedding", (d, self.vace_in_dim, *self.patch))
            yield from both("vace_blocks.0.before_proj", "vace_blocks.0.proj_in", (d, d))
            for number in range(self.vace_layers):
                yield from both(f"vace_blocks.{number}.after_proj", f"vace_blocks.{number}.proj_out", (d, d))
        for linear in self.linears():
            yield Expected(f"{linear.native}.bias", f"{linear.diffusers}.bias", linear.shape[:1], linear.of_images)

    def _block_tensors(self, block: str) -> Iterator[Expected]:
        d = self.dim
        yield Expected(f"{block}.modulation", f"{block}.scale_shift_table", (1, 6, d))
        yield from both(f"{block}.norm3", f"{block}.norm2", (d,))
        for native, diffusers in (("self_attn", "attn1"), ("cross_attn", "attn2")):
            for leaf in ("norm_q", "norm_k"):
                yield Expected(f"{block}.{native}.{leaf}.weight", f"{block}.{diffusers}.{leaf}.weight", (d,))
        if self.images is not False:
            names = (f"{block}.cross_attn.norm_k_img.weight", f"{block}.attn2.norm_added_k.weight")
            yield Expected(*names, (d,), of_images=True)

    def multipliers(self) -> Iterator[Expected]:
        """What smoothing leaves beside the modulated norms: in all blocks, or in none."""
        for blocks, count in (("blocks", self.layers), ("vace_blocks", self.vace_layers)):
            for number in range(count):
                for norm in ("affine_norm1", "affine_norm3"):
                    name = f"{blocks}.{number}.{norm}"
                    yield from both(name, name, (self.dim,))

    def optional(self) -> Iterator[Expected]:
        """What some of these networks have: positions of two images' tokens."""
        names = ("img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed")
        yield Expected(*names, (1, "image_tokens", "image_dim"), of_images=True)


def read_wan(config: Mapping[str, Any], runtime: Mapping[str, Any] | None = None) -> Wan | list[str]:
    """The network that a config.json describes, or the keys that it lacks; the runtime's says whether a native one
    projects images."""
    naming: Naming = "diffusers" if "num_attention_heads" in config else "native"
    wanted = {
        "native": ("dim", "num_heads", "num_layers", "in_dim", "out_dim", "ffn_dim", "freq_dim"),
        "diffusers": ("num_attention_heads", "attention_head_dim", "num_layers", "in_channels", "out_channels",
                      "ffn_dim", "freq_dim"),
    }[naming]  # fmt: skip
    if lacks := [*lacking(config, wanted), *_odd_sizes(config)]:
        return lacks
    if naming == "native":
        heads, dim, ins, outs = (config[key] for key in ("num_heads", "dim", "in_dim", "out_dim"))
        if dim % heads:
            return [f"a num_heads that shares out the {dim} of dim (it is {heads})"]
    else:
        heads, ins, outs = (config[key] for key in ("num_attention_heads", "in_channels", "out_channels"))
        dim = heads * config["attention_head_dim"]
    return Wan(
        naming, dim, heads, config["num_layers"], ins, outs, config["ffn_dim"], config["freq_dim"],
        config.get("text_dim", "text_dim"), tuple(config.get("patch_size") or (1, 2, 2)),
        _projects_images(naming, config, runtime),
        len(config.get("vace_layers") or ()),
        config.get("vace_in_dim") or config.get("vace_in_channels") or "vace_in_dim",
    )  # fmt: skip


def lacking(config: Mapping[str, Any], wanted: Iterable[str], may_be_none: Collection[str] = ()) -> list[str]:
    """The keys that hold no size or count, with what they hold instead."""
    found = []
    for key in wanted:
        least, most = int(key not in may_be_none), MOST_BLOCKS if key.endswith("layers") else LARGEST
        if not is_whole(config.get(key), least, most):
            said = f" from {least} to {most} (it is {shown(repr(config[key]))})" if key in config else ""
            found.append(key + said)
    return found


def _odd_sizes(config: Mapping[str, Any]) -> list[str]:
    """The keys that need not be there and hold no size, with what they hold instead."""
    there = [key for key in ("text_dim", "vace_in_dim", "vace_in_channels") if config.get(key) is not None]
    odd = lacking(config, there)
    for key, least, most in (("patch_size", 1, 3), ("vace_layers", 0, MOST_BLOCKS)):
        sizes = config.get(key) or ()
        is_list = isinstance(sizes, list | tuple) and len(sizes) <= most
        if not (is_list and all(is_whole(size, least) for size in sizes)):
            odd.append(f"{key} as a list of at most {most} whole numbers (it is {shown(repr(sizes))})")
    return odd


def _projects_images(naming: Naming, config: Mapping[str, Any], runtime: Mapping[str, Any] | None) -> bool | None:
    if naming == "diffusers":
        return config.get("image_dim") is not None
    if config["in_dim"] == config["out_dim"]:  # no channels for a first frame
        return False
    return None if runtime is None else bool(runtime.get("use_image_encoder", True))


def _image_embedder(dim: int) -> Iterator[Expected]:
    theirs = "condition_embedder.image_embedder"
    for native, diffusers, shape in (
        ("0", "norm1", ("image_dim",)),
        ("1", "ff.net.0.proj", ("image_dim", "image_dim")),
        ("3", "ff.net.2", (dim, "image_dim")),
        ("4", "norm2", (dim,)),
    ):
        yield from both(f"img_emb.proj.{native}", f"{theirs}.{diffusers}", shape, of_images=True)


def both(native: str, diffusers: str, shape: tuple[Size, ...], of_images: bool = False) -> Iterator[Expected]:
    """Weight and bias."""
    yield Expected(f"{native}.weight", f"{diffusers}.weight", shape, of_images)
    yield Expected(f"{native}.bias", f"{diffusers}.bias", shape[:1], of_images)
