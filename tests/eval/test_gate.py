import math
import random
from statistics import NormalDist, fmean, stdev

import pytest
import torch

from llmc.errors import LlmcError
from llmc.eval.gate import decide, interval, t_quantile

SHAPES = [(8, 1), (6, 1), (8, 2), (16, 1), (16, 2)]


def pair(
    kind: str, shape: tuple[int, int], chance: random.Random, better_by: float = 0.0
) -> tuple[list[list[float]], list[list[float]]]:
    """Figures of two models on the same samples and seeds, which differ by chance alone, or by so much."""
    ours, theirs = [], []
    for _ in range(shape[0]):
        difficulty, one, other = chance.gauss(0, 3), chance.gauss(0, 1), chance.gauss(0, 1)
        ours.append([difficulty + one + chance.gauss(0, 1) - better_by for _ in range(shape[1])])
        theirs.append([difficulty + other + chance.gauss(0, 1) for _ in range(shape[1])])
    if kind == "lognormal":
        ours, theirs = ([[math.exp(v / 2) for v in row] for row in rows] for rows in (ours, theirs))
    return ours, theirs


@pytest.mark.parametrize(
    "shape", [shape if shape == (8, 1) else pytest.param(shape, marks=pytest.mark.slow) for shape in SHAPES], ids=str
)
@pytest.mark.parametrize("kind", ["normal", "lognormal"])
def test_of_200_pairs_without_a_difference_less_than_5_percent_pass(kind, shape):
    chance = random.Random(17)
    passed = [decide(*pair(kind, shape, chance), better="lower").passed for _ in range(200)]
    assert sum(passed) / 200 < 0.05


def test_a_model_that_is_better_in_every_pair_passes_and_one_that_is_worse_fails():
    chance = random.Random(3)
    ours, theirs = pair("normal", (12, 2), chance, better_by=4.0)
    assert decide(ours, theirs, "lower").verdict == "passed"
    assert decide(ours, theirs, "higher").verdict == "failed"
    assert decide(theirs, ours, "lower").verdict == "failed"


def test_more_samples_find_a_difference_that_few_cannot():
    few, many = (pair("normal", (count, 1), random.Random(5), better_by=1.0) for count in (6, 120))
    assert decide(*few, better="lower").verdict == "undecided"
    assert decide(*many, better="lower").verdict == "passed"


def test_models_that_are_the_same_to_the_bit_are_no_worse():
    rows = [[1.0, 2.0]] * 6
    decision = decide(rows, rows, "lower")
    assert decision.passed and decision.gain.low == decision.gain.high == 0.0


def test_difficult_samples_do_not_count_since_both_have_them():
    small, large = ([[scale * (-1) ** i] for i in range(8)] for scale in (1.0, 1000.0))
    shifts = [0.5, 0.6, 0.4, 0.5, 0.7, 0.3, 0.5, 0.5]
    gains = []
    for rows in (small, large):
        better = [[row[0] - shift] for row, shift in zip(rows, shifts, strict=True)]
        gains.append(decide(better, rows, "lower").gain)
    assert gains[0].mean == pytest.approx(0.5) and gains[0].low == pytest.approx(gains[1].low)


def test_the_interval_of_many_normal_gains_is_that_of_the_t_test():
    chance = random.Random(1)
    gains = [chance.gauss(0.3, 2.0) for _ in range(60)]
    found = interval(torch.tensor(gains, dtype=torch.float64)[:, None])
    half = 2.001 * stdev(gains) / math.sqrt(60)  # t of 59 degrees of freedom, from a table
    assert found.mean == pytest.approx(fmean(gains))
    assert (found.low, found.high) == pytest.approx((fmean(gains) - half, fmean(gains) + half), abs=0.12 * half)


def test_more_confidence_makes_a_wider_interval_and_the_same_seed_the_same_one():
    gains = torch.tensor(pair("normal", (9, 2), random.Random(2))[0])
    narrow, wide = interval(gains, 80), interval(gains, 99)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high
    assert interval(gains, 80) == narrow


@pytest.mark.parametrize(("freedom", "expected"), [(5, 2.5706), (7, 2.3646), (15, 2.1314), (120, 1.9799)])
def test_quantiles_of_t_are_those_of_the_tables(freedom, expected):
    assert t_quantile(0.975, freedom) == pytest.approx(expected, abs=4e-3)
    assert t_quantile(0.025, 10**9) == pytest.approx(NormalDist().inv_cdf(0.025))


def test_the_sentence_says_what_by_how_much_and_on_what_it_rests():
    ours, theirs = pair("normal", (12, 2), random.Random(3), better_by=4.0)
    said = decide(ours, theirs, "lower").sentence("PSNR", "fp8", "dB", 2)
    assert said.startswith("gate passed: PSNR is ") and " dB better than that of fp8" in said
    assert "95 %, 12 samples × 2 seeds" in said and said.endswith("it is no worse")
    said = decide(theirs, ours, "lower").sentence("PSNR", "fp8", "dB", 2)
    assert said.startswith("gate failed") and " worse than" in said


@pytest.mark.parametrize(
    ("ours", "theirs", "why"),
    [
        ([[1.0]] * 5, [[1.0]] * 5, "fewer than 6"),
        ([[1.0]] * 6, [[1.0]] * 7, "same samples"),
        ([[1.0]] * 6 + [[1.0, 2.0]], [[1.0]] * 7, "one for every seed"),
        ([[math.nan]] + [[1.0]] * 6, [[1.0]] * 7, "NaN"),
    ],
    ids=["few", "unlike", "ragged", "nan"],
)
def test_what_cannot_be_decided_is_refused(ours, theirs, why):
    with pytest.raises(LlmcError, match=why):
        decide(ours, theirs, "lower")
