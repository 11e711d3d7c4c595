"""What of a calibration is kept apart, to judge a solution by what it has not seen.

One in five samples is, since what a solution fits too closely is what repeats within a video: its prompt, its picture.
Of a single sample it is one in five tokens, the same ones in every call, in runs of neighbours.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise

import torch

APART = "_apart"  # ends the name of a statistic of what is kept apart; the one without it is then of the rest
ONE_IN = 5
FIRST = 2  # of the samples, or runs, that are kept apart
RUNS = 25  # of neighbours, in a call
OVERFIT = 1.6  # times the error: from here on a solution fits the calls that it has seen, and no others


def keeps_apart(needs: Collection[str]) -> bool:
    """Whether some of these statistics are of what is kept apart."""
    return any(need.endswith(APART) for need in needs)


@dataclass(frozen=True)
class Apart:
    """Which of the tokens that are observed are kept apart."""

    samples: frozenset[int]  # those that are, of several; none of a single one

    @classmethod
    def of(cls, samples: Collection[int]) -> Apart:
        """Told from the numbers of all samples, so that several ranks choose as one does."""
        several = sorted(samples) if len(samples) > 1 else []
        return cls(frozenset(several[min(FIRST, len(several) - 1) :: ONE_IN] if several else ()))

    def parted(self, x: torch.Tensor, sample: int) -> tuple[torch.Tensor, torch.Tensor]:
        """What is read in a call of a sample, (..., tokens, channels): what may be used of it, and what is kept
        apart."""
        if self.samples:
            none = x[..., :0, :]
            return (none, x) if sample in self.samples else (x, none)
        runs = _runs(x)  # slices, since a device would have to tell how many tokens a mask chooses
        kept = [run for number, run in enumerate(runs) if number % ONE_IN == FIRST]
        rest = [run for number, run in enumerate(runs) if number % ONE_IN != FIRST]
        return torch.cat(rest, -2), torch.cat(kept, -2) if kept else x[..., :0, :]


def _runs(x: torch.Tensor) -> list[torch.Tensor]:
    """The tokens in runs of neighbours, which are of one length but for what is left over."""
    count = x.shape[-2]
    runs = min(RUNS, count)
    ends = [-(-count * number // max(1, runs)) for number in range(runs + 1)]
    return [x[..., start:end, :] for start, end in pairwise(ends)] or [x]


@dataclass(frozen=True)
class Fit:
    """How a rounded weight fares on calls kept apart: squared errors of its output, as shares of the output's own."""

    used: float  # on the calls that it was solved for
    apart: float  # on those kept apart
    of_plain: float  # error on those kept apart, as a share of what rounding to nearest leaves there

    @property
    def overfit(self) -> float | None:
        """How many times the error is on calls kept apart; None where there is nothing to compare."""
        return self.apart / self.used if self.used > 0 else None


def overfit(fits: Collection[Fit]) -> float | None:
    """How many times the error of several weights together is on calls kept apart."""
    used = sum(fit.used for fit in fits)
    return sum(fit.apart for fit in fits) / used if used > 0 else None
