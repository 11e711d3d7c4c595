"""The gate: whether a quantized model is no worse than a yardstick, as far as a few videos can tell.

Both are judged on the same samples and seeds, so only the difference of each pair counts. Its mean has an interval from
a bootstrap over samples, and over the seeds of each. The gate is passed where the whole interval lies on the good side:
of models that do not differ at all, about half of what the confidence leaves pass by chance, 2.5 % at 95.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import torch

from llmc.errors import LlmcError
from llmc.eval.gate_settings import LEAST_SAMPLES

DRAWS = 5000
AT_ONCE = 2**22  # differences that are drawn at a time
TINY = 1e-9

Verdict = Literal["passed", "failed", "undecided"]


@dataclass(frozen=True)
class Interval:
    """A mean, and where the true one lies with the confidence that was asked for."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Decision:
    """Whether ours is no worse, by how much it is better (above 0) or worse, and what that rests on."""

    verdict: Verdict
    gain: Interval
    confidence: float
    samples: int
    seeds: int

    @property
    def passed(self) -> bool:
        """Whether the whole interval lies on the good side."""
        return self.verdict == "passed"

    def sentence(self, metric: str, yardstick: str, unit: str = "", digits: int = 4) -> str:
        """What was decided and why, for people."""
        ends = "it is no worse" if self.passed else "it is worse" if self.verdict == "failed" else WHY_UNDECIDED
        way = "better" if self.gain.mean >= 0 else "worse"
        by = f"{_rounded(abs(self.gain.mean), digits)} {unit}".strip()
        low, high = (_rounded(end, digits) for end in (self.gain.low, self.gain.high))
        return (
            f"gate {self.verdict}: {metric} is {by} {way} than that of {yardstick} (gain {low} to {high} at "
            f"{self.confidence:g} %, {self.samples} samples × {self.seeds} seed{'s' if self.seeds > 1 else ''}): {ends}"
        )


WHY_UNDECIDED = "that may be chance; judge more samples or seeds (eval.n_samples, eval.seeds)"


def decide(
    ours: Sequence[Sequence[float]],
    theirs: Sequence[Sequence[float]],
    better: Literal["higher", "lower"],
    confidence: float = 95.0,
    seed: int = 0,
) -> Decision:
    """Hold our figures to theirs, both a row for each sample with a figure for each seed."""
    rows, columns = _shape(ours), _shape(theirs)
    if rows != columns:
        raise LlmcError(
            f"ours are {rows[0]} samples of {rows[1]} seeds, theirs {columns[0]} of {columns[1]}; a gate compares "
            "pairs: judge both on the same samples and seeds"
        )
    if rows[0] < LEAST_SAMPLES:
        raise LlmcError(
            f"a gate was given {rows[0]} samples; fewer than {LEAST_SAMPLES} cannot tell a difference from chance; "
            "judge more (eval.n_samples, or more of them in eval.path)"
        )
    sign = 1.0 if better == "higher" else -1.0
    gains = sign * (torch.tensor(ours, dtype=torch.float64) - torch.tensor(theirs, dtype=torch.float64))
    if not gains.isfinite().all():
        raise LlmcError(
            "a figure that the gate was given is NaN or infinite; leave out what has no figure, or judge it"
        )
    gain = interval(gains, confidence, seed)
    verdict: Verdict = "passed" if gain.low >= 0 else "failed" if gain.high < 0 else "undecided"
    return Decision(verdict, gain, confidence, *rows)


def interval(gains: torch.Tensor, confidence: float = 95.0, seed: int = 0) -> Interval:
    """The mean of (samples, seeds) with its interval: the wider of two bootstraps at either end.

    One takes percentiles of the means that are drawn. With few samples they lie too close, by √((n - 1) / n) and as a
    normal's tails do to a t's, and are moved outwards by both (Hesterberg 2015, "expanded percentile"). The other takes
    those of (mean - true mean) / error (Efron's bootstrap-t), which sees that a rare large loss may not have come up.
    """
    count, tail = len(gains), (1 - confidence / 100) / 2
    outwards = NormalDist().cdf(t_quantile(tail, count - 1) * (count / (count - 1)) ** 0.5)
    mean, error = gains.mean(), _error(gains.mean(1))
    means, errors = _bootstrap(gains, torch.Generator().manual_seed(seed))
    shifts = (means - mean) / errors.clamp(min=TINY * float(error))  # draws of one sample alone have no spread
    low, high = _ends(means, outwards)
    below, above = _ends(shifts.nan_to_num(), tail)  # where no pair differs from another: 0 / 0
    return Interval(float(mean), min(low, float(mean - above * error)), max(high, float(mean - below * error)))


def t_quantile(probability: float, freedom: int) -> float:
    """Of Student's t, by its expansion around the normal (Abramowitz and Stegun 26.7.5); to 0.01 from 4 degrees on."""
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
    )
    return float(z + sum(term / freedom**power for power, term in enumerate(terms, 1)))


def _bootstrap(gains: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """As many samples as there are, drawn with replacement, and as many seeds of each: their means and errors."""
    samples, seeds = gains.shape
    means, errors, some = [], [], max(1, AT_ONCE // gains.numel())
    for start in range(0, DRAWS, some):
        shape = (min(some, DRAWS - start), samples)
        drawn = gains[torch.randint(samples, shape, generator=generator)]  # (draws, samples, seeds)
        if seeds > 1:
            drawn = drawn.gather(2, torch.randint(seeds, (*shape, seeds), generator=generator))
        means.append(drawn.mean((1, 2)))
        errors.append(_error(drawn.mean(2)))
    return torch.cat(means), torch.cat(errors)


def _error(of_samples: torch.Tensor) -> torch.Tensor:
    """How far the mean of the last dimension may be from the true one: one standard deviation of it."""
    return of_samples.std(-1) / math.sqrt(of_samples.shape[-1])


def _ends(drawn: torch.Tensor, tail: float) -> tuple[float, float]:
    """What leaves out so large a share of the draws on either side."""
    ordered, at = drawn.sort().values, round(tail * (len(drawn) - 1))
    return float(ordered[at]), float(ordered[-1 - at])


def _shape(figures: Sequence[Sequence[float]]) -> tuple[int, int]:
    """Samples and seeds, which must be as many for each sample."""
    counts = {len(row) for row in figures}
    if len(counts) != 1 or 0 in counts:
        raise LlmcError(f"samples of the gate have {sorted(counts)} figures each; each needs one for every seed")
    return len(figures), counts.pop()


def _rounded(value: float, digits: int) -> str:
    return f"{value:.1e}" if 0 < abs(value) < 10**-digits * 5 else f"{value:.{digits}f}"
