"""Queries, keys and values on their grids."""

from __future__ import annotations

import pytest
import torch

from llmc.numerics.attention import QUERY_ROWS, head_scales, quantize_heads, visible
from llmc.numerics.attention_spec import ROLES, AttentionSpec

INT8 = AttentionSpec(qk="int8", v="int8")


def heads(tokens: int = 40, width: int = 32) -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(2, 3, tokens, width)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", ["int8", "fp8_e4m3"])
def test_each_head_has_its_own_scale(name: str, role: str) -> None:
    x = heads()
    spec = AttentionSpec(qk=name, v=name)
    alone = torch.cat([quantize_heads(x[:, [head]], role, spec) for head in range(3)], 1)  # type: ignore[arg-type]
    louder = x * torch.tensor([1.0, 1000.0, 1e-3]).reshape(1, 3, 1, 1)
    assert torch.equal(quantize_heads(x, role, spec), alone)  # type: ignore[arg-type]
    assert torch.equal(quantize_heads(louder, role, spec)[:, 0], alone[:, 0])  # type: ignore[arg-type]
    step = x.abs().amax((2, 3), keepdim=True) / (127 if name == "int8" else 14)  # the widest step of e4m3 is 32 of 448
    assert ((alone - x).abs() <= step / 2 * 1.001).all()


def test_groups_lie_along_what_is_summed_over() -> None:
    spec, x = AttentionSpec(qk="mxfp8", v="mxfp8"), heads(tokens=40)
    loud = x.clone()
    loud[0, 0, 5] *= 2.0**20  # one token: of queries and keys nothing but itself, of values its group of 32 tokens
    quiet = [quantize_heads(x, role, spec) for role in ROLES]
    q, k, v = (quantize_heads(loud, role, spec) != before for role, before in zip(ROLES, quiet, strict=True))
    assert {int(token) for token in q.any(-1)[0, 0].nonzero()} == {5}
    assert {int(token) for token in k.any(-1)[0, 0].nonzero()} == {5}
    assert {int(token) for token in v.any(-1)[0, 0].nonzero()} == set(range(32))


def test_blocks_of_tokens_share_a_scale() -> None:
    spec = AttentionSpec(qk="fp8_e4m3", v="fp8_e4m3", granularity="per_block")
    x = heads(tokens=QUERY_ROWS + 10)
    x[:, :, -1] *= 1e4
    whole = quantize_heads(x, "q", AttentionSpec(qk="fp8_e4m3", v="fp8_e4m3"))
    q, k = quantize_heads(x, "q", spec), quantize_heads(x, "k", spec)
    assert torch.equal(q[:, :, :QUERY_ROWS], quantize_heads(x[:, :, :QUERY_ROWS], "q", spec))
    assert not torch.equal(q, whole) and torch.equal(k, whole)  # 256 tokens of keys are a block


def test_a_calibrated_scale_is_one_for_each_head_and_saturates_beyond() -> None:
    x = heads()
    scale = head_scales(x.abs().amax((0, 2, 3)) / 2, "q", INT8)
    assert scale.shape == (3,)
    codes = quantize_heads(x, "q", INT8, scale) / scale.reshape(1, 3, 1, 1)
    assert torch.allclose(codes, codes.round(), atol=1e-4)
    assert codes.min().round() == -128 and codes.max().round() == 127


def test_calibrated_scales_are_exact_in_what_a_target_keeps() -> None:
    scale = head_scales(torch.tensor([0.3, 7.7]), "k", INT8.model_copy(update={"scale_dtype": "bfloat16"}))
    assert torch.equal(scale, scale.bfloat16().float())


def test_masks_of_either_kind_say_which_keys_are_seen() -> None:
    keys = torch.zeros(1, 2, 4, 8)
    allowed = torch.tensor([True, True, False, False])
    added = torch.where(allowed, 0.0, -10000.0).bfloat16()
    for mask in (
        allowed.reshape(1, 1, 1, 4),
        added.reshape(1, 1, 1, 4),
        added.expand(1, 2, 4, 4),
        allowed.expand(4, 4),
    ):
        assert torch.equal(visible(mask, keys), allowed[None])


def test_what_is_measured_at_run_time_cannot_be_calibrated() -> None:
    with pytest.raises(ValueError, match="mxfp8 measures the scale of every 32 values"):
        AttentionSpec(qk="mxfp8", v="int8", dynamic=False)
    with pytest.raises(ValueError, match="only be per_head"):
        AttentionSpec(qk="int8", v="int8", dynamic=False, granularity="per_block")
