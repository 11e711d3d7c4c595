"""Blocks in which text and picture attend jointly, as HunyuanVideo, FLUX.1 and those after them have them."""

from __future__ import annotations

from dataclasses import dataclass

from llmc.models.parts import LinearGroup, Modulation


def adaptive(linear: str, chunks: int, norm: int = 0) -> tuple[Modulation]:
    """Rows of an adaptive norm's linear: (shift, scale, gate) of its first norm, then of its second, and so on."""
    return (Modulation(linear, chunks, shift=(3 * norm,), scale=(3 * norm + 1,)),)


@dataclass(frozen=True)
class Stream:
    """The modules of one of the two streams of a joint block."""

    norm: str
    qkv: tuple[str, str, str]
    norm_q: str
    norm_k: str
    out: str
    ff: str


IMAGE = Stream("norm1", ("attn.to_q", "attn.to_k", "attn.to_v"), "attn.norm_q", "attn.norm_k", "attn.to_out.0", "ff")
TEXT = Stream(
    "norm1_context",
    ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "attn.norm_added_q", "attn.norm_added_k", "attn.to_add_out", "ff_context",
)  # fmt: skip

# FLUX's and HunyuanVideo's blocks. Who can absorb a scale of each input: the linear that modulates the norm before it.
# Nobody: attention's outputs of image and text mix the values of both streams, so that a scale of one would be a scale
# of the other; a GELU stands before net.2, and before four fifths of the channels of a single block's proj_out.
DOUBLE_STREAM = tuple(
    group
    for stream in (IMAGE, TEXT)
    for group in (
        LinearGroup(stream.qkv, adaptive(f"{stream.norm}.linear", 6)),
        LinearGroup((stream.out,)),
        LinearGroup((f"{stream.ff}.net.0.proj",), adaptive(f"{stream.norm}.linear", 6, norm=1)),
        LinearGroup((f"{stream.ff}.net.2",)),
    )
)
SINGLE_STREAM = (
    LinearGroup(("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"), adaptive("norm.linear", 3)),
    LinearGroup(("proj_out",)),
)
