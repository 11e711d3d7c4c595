"""Wan: T2V, I2V, FLF2V and VACE by the table that exports use too, and what only Wan2.2-Animate has."""

from __future__ import annotations

from torch import Tensor, tensor

from llmc.convert.rows import Constant, Reshaped, Table
from llmc.models.wan import LIGHTX2V
from llmc.renames import Fused

BLOCKS = 7  # of the motion encoder, whose input is always 512 pixels wide
CONVS = "motion_encoder.enc.net_app.convs"  # a list in the original: conv_in, the blocks, conv_out


def _per_channel(bias: Tensor) -> Tensor:
    return bias.reshape(1, -1, 1, 1)


def _flat(bias: Tensor) -> Tensor:
    return bias.reshape(-1)


def _blur(_: tuple[int, ...]) -> Tensor:
    """The binomial filter of 4 taps; the original stores it, diffusers makes it."""
    taps = tensor([1.0, 3.0, 3.0, 1.0])
    return taps.outer(taps) / 64


def _bias(ours: str, theirs: str) -> Reshaped:
    return Reshaped(f"motion_encoder.{ours}.act_fn.bias", f"{CONVS}.{theirs}.bias", _per_channel, _flat)


MOTION_ENCODER: Table = (
    ("motion_encoder.conv_in.weight", f"{CONVS}.0.0.weight"),
    _bias("conv_in", "0.1"),
    *(
        row
        for block in range(BLOCKS)
        for ours, theirs in ((f"res_blocks.{block}", str(block + 1)),)
        for row in (
            (f"motion_encoder.{ours}.conv1.weight", f"{CONVS}.{theirs}.conv1.0.weight"),
            _bias(f"{ours}.conv1", f"{theirs}.conv1.1"),
            Constant(f"{CONVS}.{theirs}.conv2.0.kernel", f"{CONVS}.{theirs}.conv2.1.weight", _blur),
            (f"motion_encoder.{ours}.conv2.weight", f"{CONVS}.{theirs}.conv2.1.weight"),
            _bias(f"{ours}.conv2", f"{theirs}.conv2.2"),
            Constant(f"{CONVS}.{theirs}.skip.0.kernel", f"{CONVS}.{theirs}.skip.1.weight", _blur),
            (f"motion_encoder.{ours}.conv_skip.weight", f"{CONVS}.{theirs}.skip.1.weight"),
        )
    ),
    ("motion_encoder.conv_out.weight", f"{CONVS}.{BLOCKS + 1}.weight"),
    ("motion_encoder.motion_network.{}", "motion_encoder.enc.fc.{}"),
    ("motion_encoder.motion_synthesis_weight", "motion_encoder.dec.direction.weight"),
)

ANIMATE: Table = (
    ("pose_patch_embedding", "pose_patch_embedding"),
    *MOTION_ENCODER,
    ("face_encoder.padding_tokens", "face_encoder.padding_tokens"),
    ("face_encoder.conv1_local", "face_encoder.conv1_local.conv"),
    ("face_encoder.conv2", "face_encoder.conv2.conv"),
    ("face_encoder.conv3", "face_encoder.conv3.conv"),
    ("face_encoder.out_proj", "face_encoder.out_proj"),
    ("face_adapter.{}.to_q", "face_adapter.fuser_blocks.{}.linear1_q"),
    Fused(
        ("face_adapter.{}.to_k", "face_adapter.{}.to_v"), "face_adapter.fuser_blocks.{}.linear1_kv", shares=(1, 1)
    ),
    ("face_adapter.{}.to_out", "face_adapter.fuser_blocks.{}.linear2"),
    ("face_adapter.{}.norm_q", "face_adapter.fuser_blocks.{}.q_norm"),
    ("face_adapter.{}.norm_k", "face_adapter.fuser_blocks.{}.k_norm"),
)  # fmt: skip

WAN: Table = (*LIGHTX2V, *ANIMATE)
