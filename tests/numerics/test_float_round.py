"""Ties to even, ties away from zero, and QPyTorch itself."""

import pytest
import torch

from llmc.errors import UnsupportedSpec
from llmc.numerics.float_round import half_away, half_even, load_qtorch, power_of_two, qtorch_round

E4M3 = torch.arange(0, 127, dtype=torch.uint8).view(torch.float8_e4m3fn).float()  # every finite non-negative code


def test_half_even_is_what_the_hardware_does() -> None:
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0)) * 30
    x = torch.cat([x, x * 1e-4, x * 1e-12, E4M3, (E4M3[1:] + E4M3[:-1]) / 2, torch.zeros(1)])
    for dtype, exponent_bits, mantissa_bits in ((torch.float8_e4m3fn, 4, 3), (torch.float8_e5m2, 5, 2)):
        rounded, wanted = half_even(x, exponent_bits, mantissa_bits), x.to(dtype).float()
        assert torch.equal(rounded.view(torch.int32), wanted.view(torch.int32))  # the sign of a zero too


def test_half_even_leaves_what_is_too_large_too_large() -> None:
    large = torch.tensor([7.0, 1e10, 3e38, torch.inf])
    assert (half_even(large, 2, 1) >= large.clamp(max=6)).all() and (half_even(-large, 2, 1) <= -6).all()
    assert half_even(torch.tensor([torch.nan]), 2, 1).isnan().all()


def test_powers_of_two_are_exact_and_end_where_e8m0_ends() -> None:
    assert power_of_two(torch.arange(-127, 128)).tolist() == [2.0**k for k in range(-127, 128)]
    assert power_of_two(torch.tensor([-200, 200])).tolist() == [2.0**-127, 2.0**127]


def test_half_away_keeps_codes_and_sends_midpoints_up() -> None:
    between = (E4M3[1:] + E4M3[:-1]) / 2
    for sign in (1, -1):
        assert torch.equal(half_away(sign * E4M3, 4, 3), sign * E4M3)
        assert torch.equal(half_away(sign * between, 4, 3), sign * E4M3[1:])


def test_half_away_differs_from_the_hardware_only_in_ties() -> None:
    x = torch.randn(200_000, generator=torch.Generator().manual_seed(0)) * 30
    assert torch.equal(half_away(x, 4, 3), x.to(torch.float8_e4m3fn).float())


@pytest.mark.slow  # QPyTorch compiles itself at its first import
def test_half_away_equals_qpytorch() -> None:
    scales = torch.tensor([300.0, 10.0, 0.1, 0.004])
    x = (torch.randn(500_000, 4, generator=torch.Generator().manual_seed(1)) * scales).clamp(-448, 448)
    x = torch.cat([x.flatten(), x.to(torch.bfloat16).float().flatten()])
    theirs = qtorch_round(x, 4, 3).clamp(-448, 448)
    assert (half_away(x, 4, 3).clamp(-448, 448) != theirs).sum() <= 28  # near ties that QPyTorch rounds up below 2^-6


def test_without_build_tools_qpytorch_gives_advice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    monkeypatch.delitem(__import__("sys").modules, "qtorch.quant", raising=False)
    with pytest.raises(UnsupportedSpec, match=r"no ninja and no C\+\+ compiler.*\n.*half_away"):
        load_qtorch()
