"""What MindIE-SD reads of quantized attention: names, types and shapes of three generations."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from llmc.errors import ExportError
from llmc.export.mindie.attention import (
    attention_problem,
    attention_tensors,
    computed_attention,
    runtime_attention,
)
from llmc.export.mindie.types import Version
from llmc.layers.attention import AttentionState, QuantAttention
from llmc.models.flux import Flux
from llmc.models.hunyuan import HunyuanVideo
from llmc.models.wan import LIGHTX2V
from llmc.numerics.attention import head_scales
from llmc.numerics.attention_spec import ROLES, AttentionSpec
from llmc.numerics.hadamard import random_hadamard

HUNYUAN = HunyuanVideo.original(nn.Identity())
HEADS, WIDTH = 24, 128


def attention(spec: AttentionSpec, name: str = "blocks.3.attn1", **state: Any) -> QuantAttention:
    found = QuantAttention(name, nn.Identity(), spec, HEADS, asks_itself=True)
    found.state = AttentionState(**state)
    return found


@pytest.mark.parametrize(
    ("table", "ours", "theirs"),
    [
        (LIGHTX2V, "blocks.3.attn1", "blocks.3.self_attn"),
        (LIGHTX2V, "blocks.12.attn2", "blocks.12.cross_attn"),
        (HUNYUAN, "transformer_blocks.7.attn", "double_blocks.7"),
        (HUNYUAN, "single_transformer_blocks.30.attn", "single_blocks.30"),
        (Flux.renames["mindie"], "transformer_blocks.7.attn", "transformer_blocks.7.attn"),
    ],
)
def test_attentions_have_the_names_of_the_repository_that_runs(table: Any, ours: str, theirs: str) -> None:
    assert runtime_attention(ours, table) == theirs


def test_an_attention_without_a_known_name_is_refused() -> None:
    with pytest.raises(ExportError, match=r"blocks\.0\.attn3 has no known name"):
        runtime_attention("blocks.0.attn3", LIGHTX2V)


def test_int8_has_one_scale_for_each_head_in_the_shape_that_loads() -> None:
    spec = computed_attention(AttentionSpec(qk="int8", v="int8", dynamic=False), "bfloat16")
    absmax = torch.rand(3, HEADS) + 0.1
    scales = tuple(head_scales(each, role, spec) for each, role in zip(absmax, ROLES, strict=True))
    tensors, says = attention_tensors({"transformer_blocks.7.attn": attention(spec, scales=scales)}, HUNYUAN)
    for role, scale in zip(ROLES, scales, strict=True):
        stored = tensors[f"double_blocks.7.fa_{role}.scale"].make()
        assert stored.shape == (HEADS, 1) and stored.dtype == torch.bfloat16
        assert torch.equal(stored.float().reshape(-1), scale)  # what was judged, to the bit
        offset = tensors[f"double_blocks.7.fa_{role}.offset"].make()
        assert offset.shape == (HEADS, 1) and offset.dtype == torch.int8 and not offset.any()
    assert says == {**dict.fromkeys(tensors, "FAQuant"), "fa_quant_type": "FAQuant"}


@pytest.mark.parametrize(
    ("name", "said"), [("fp8_e4m3", "FP8_DYNAMIC"), ("mxfp8", "MXFP8_DYNAMIC"), ("mxfp4", "MXFP4_DYNAMIC")]
)
def test_what_is_measured_at_run_time_stores_its_type_and_rotations(name: str, said: str) -> None:
    spec = computed_attention(AttentionSpec(qk=name, v=name, rotate=True), "bfloat16")
    rotation = random_hadamard(WIDTH, torch.Generator().manual_seed(0)).bfloat16()
    tensors, says = attention_tensors({"blocks.3.attn1": attention(spec, rotation=rotation.float())}, LIGHTX2V)
    assert says == {"blocks.3.self_attn.quant_type": said, **dict.fromkeys(tensors, "FLOAT")}
    for leaf in ("q_rot", "k_rot"):
        assert torch.equal(tensors[f"blocks.3.self_attn.{leaf}"].make(), rotation)


def test_mxfp4_needs_no_rotation_and_what_stayed_float_is_not_spoken_of() -> None:
    spec = AttentionSpec(qk="mxfp4", v="mxfp4")
    both = {"blocks.3.attn1": attention(spec), "blocks.4.attn1": attention(spec, stays_float=True)}
    assert attention_tensors(both, LIGHTX2V) == ({}, {"blocks.3.self_attn.quant_type": "MXFP4_DYNAMIC"})


def test_each_attention_says_its_own_type() -> None:
    fp8 = computed_attention(AttentionSpec(qk="fp8_e4m3", v="fp8_e4m3", rotate=True), "bfloat16")
    both = {
        "blocks.0.attn1": attention(fp8, rotation=torch.eye(WIDTH)),
        "blocks.1.attn1": attention(AttentionSpec(qk="mxfp4", v="mxfp4")),
    }
    tensors, says = attention_tensors(both, LIGHTX2V)
    assert {name: said for name, said in says.items() if said != "FLOAT"} == {
        "blocks.0.self_attn.quant_type": "FP8_DYNAMIC", "blocks.1.self_attn.quant_type": "MXFP4_DYNAMIC"
    }  # fmt: skip
    assert set(tensors) == {"blocks.0.self_attn.q_rot", "blocks.0.self_attn.k_rot"}


def test_what_is_judged_is_what_its_kernels_compute() -> None:
    fp8 = computed_attention(AttentionSpec(qk="fp8_e4m3", v="fp8_e4m3", rotate=True), "bfloat16")
    assert fp8.granularity == "per_block"
    mx = computed_attention(AttentionSpec(qk="mxfp4", v="mxfp4"), "bfloat16")
    assert mx.qk.model_dump()["exponent"] == mx.v.model_dump()["exponent"] == "floor"


@pytest.mark.parametrize(
    ("fields", "version", "soc", "said"),
    [
        ({"qk": "int8", "v": "int8", "dynamic": False}, 3, "a2", "gone since MindIE-SD 3"),
        ({"qk": "int8", "v": "int8", "dynamic": False}, "2026-07", "a5", "`mindie_version: 2.3` alone"),
        ({"qk": "int8", "v": "int8", "dynamic": False}, "2.3", "a5", "a2 and a3 alone"),
        ({"qk": "int8", "v": "int8"}, "2.3", "a2", "write `static: True`"),
        ({"qk": "fp8_e4m3", "v": "fp8_e4m3", "rotate": True}, 3, "a2", "runs on a5 alone"),
        ({"qk": "fp8_e4m3", "v": "fp8_e4m3", "rotate": True}, 3, "a3", "runs on a5 alone"),
        ({"qk": "fp8_e4m3", "v": "fp8_e4m3"}, 3, "a5", "write `rotate: online`"),
        ({"qk": "fp8_e4m3", "v": "fp8_e4m3", "rotate": True, "dynamic": False}, 3, "a5", "write `static: False`"),
        ({"qk": "mxfp8", "v": "mxfp8", "rotate": True}, 3, "a5", "`mindie_version: 2026-07` alone, found 3"),
        ({"qk": "fp8_e4m3", "v": "mxfp4", "rotate": True}, "2026-07", "a5", "leave v_bit out"),
        ({"qk": "nvfp4", "v": "nvfp4"}, "2026-07", "a5", "no attention in nvfp4"),
        ({"qk": "int8", "v": "int8", "dynamic": False}, "2.3", "a2", None),
        ({"qk": "fp8_e4m3", "v": "fp8_e4m3", "rotate": True}, 3, "a5", None),
        ({"qk": "mxfp8", "v": "mxfp8", "rotate": True}, "2026-07", "a5", None),
        ({"qk": "mxfp4", "v": "mxfp4"}, "2026-07", "a5", None),
    ],
)
def test_what_no_such_mindie_runs_is_refused(
    fields: dict[str, Any], version: Version, soc: str, said: str | None
) -> None:
    found = attention_problem(AttentionSpec.model_validate(fields), version, soc)
    assert (found is None) if said is None else (found is not None and said in found)
