"""Codes of a codebook: each weight on the nearest integer that its group decodes to."""

from __future__ import annotations

import pytest
import torch

from llmc.errors import UnsupportedSpec
from llmc.numerics.clip import shrunk_scales
from llmc.numerics.codebook import codes_of
from llmc.numerics.formats.codebook import STANDARD, Codebook4
from llmc.numerics.gptq import Factor, gptq_on_best_grid
from llmc.numerics.quantize import quantize
from llmc.numerics.spec import TensorSpec

SPEC = TensorSpec(format=Codebook4(), granularity="per_channel")


def weight(rows: int = 24, columns: int = 64) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * 0.05


def table(steps: torch.Tensor) -> torch.Tensor:
    """What the 16 codes of each group stand for, from the definition."""
    return (torch.tensor(STANDARD) * steps[..., None]).clamp(-127, 127).round()


def test_each_value_is_the_nearest_that_its_group_can_be() -> None:
    w = weight()
    rounded = quantize(w, SPEC)
    assert rounded.zero is not None and rounded.zero.shape == (24, 4)
    wanted = (w / rounded.scale).reshape(24, 4, 16)
    nearest = (wanted[..., None] - table(rounded.zero)[:, :, None]).abs().amin(-1)
    torch.testing.assert_close((rounded.values().reshape(24, 4, 16) - wanted).abs(), nearest)
    assert torch.equal(rounded.dequantize(), rounded.stored() * rounded.scale)


def test_steps_are_exact_as_they_are_stored_and_integers_reach_the_end_of_int8() -> None:
    rounded = quantize(weight(), SPEC)
    assert rounded.zero is not None
    assert torch.equal(rounded.zero.to(torch.float8_e4m3fn).float(), rounded.zero)
    assert int(rounded.stored().abs().max()) in (126, 127)
    assert float((rounded.dequantize() - weight()).norm() / weight().norm()) < 0.08


def test_codes_decode_to_what_was_rounded() -> None:
    rounded = quantize(weight(), SPEC)
    assert rounded.zero is not None
    codes = codes_of(rounded.values(), torch.tensor(STANDARD), rounded.zero)
    assert codes.dtype == torch.uint8 and int(codes.max()) <= 15
    found = table(rounded.zero).gather(-1, codes.long().reshape(24, 4, 16)).reshape(24, 64)
    assert torch.equal(found, rounded.values())


def test_gptq_aims_at_the_integers_and_disturbs_outputs_less() -> None:
    w, x = weight(), torch.randn(512, 64, generator=torch.Generator().manual_seed(1)) @ torch.randn(64, 64)
    gram = x.T @ x
    (solved,) = gptq_on_best_grid([w], Factor.of(gram.clone(), 0.01, True), SPEC, [shrunk_scales(w, SPEC)])
    assert solved.zero is not None
    assert (table(solved.zero)[:, :, None] == solved.values().reshape(24, 4, 16, 1)).any(-1).all()

    def error(rounded: torch.Tensor) -> float:
        return float(((rounded - w) @ gram * (rounded - w)).sum())

    assert error(solved.dequantize()) < 0.7 * error(quantize(w, SPEC).dequantize())


def test_inputs_that_groups_do_not_divide_are_refused() -> None:
    with pytest.raises(UnsupportedSpec, match="step for every 16 neighbours"):
        quantize(weight(columns=24), SPEC)
