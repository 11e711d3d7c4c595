"""Which calls of a network are observed and kept: a few that are well spread tell nearly as much as all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

MaxCalls = int | Literal["auto"] | None  # of each denoising network; None: all
LARGE = 500_000_000  # weights: all calls of a smaller network take little time and memory
FEW = 64  # calls of a large one: more than usual schedules have steps, so that each of them is seen
JUDGED = 32  # calls of a large one that are replayed: an error is known closer from them than recipes differ
HUGE = 3_000_000_000  # weights: to make a video takes so long that that of plain rounding is left out


def spread_calls(samples: int, steps: int, branches: int, count: int) -> list[list[int]]:
    """Of each sample the calls that are chosen, `count` in all, by their places among those that it makes: step by
    step, and in each step branch by branch.

    All steps come before any comes twice, all samples too, and the calls of a sample take turns in the branches. Where
    there are fewer calls than samples, the samples are spread as well.
    """
    count = min(count, samples * steps * branches)
    running = min(samples, count)
    places: list[list[int]] = [[] for _ in range(samples)]
    for number in range(count):
        turn, which = divmod(number, running)
        # turn + which: neither the calls of one sample nor those of one turn are all of one branch
        step, branch = number * steps // count, (turn + which) % branches
        places[which * samples // running].append(step * branches + branch)
    return [sorted(chosen) for chosen in places]


@dataclass(frozen=True)
class ChosenCalls:
    """The calls of each denoising network that are observed and kept: of each sample, in the order in which they are
    run, the places among those that it makes. A network that is not named, as an encoder is not, has all of its calls.
    """

    places: Mapping[str, Mapping[int, Sequence[int]]] = field(default_factory=dict)  # part -> sample -> from 0

    def has(self, part: str, sample: int, place: int) -> bool:
        """Whether the call is one of them."""
        return part not in self.places or place in self.places[part][sample]

    def as_lists(self) -> list[tuple[str, list[tuple[int, list[int]]]]]:
        """All of it in plain values."""
        found = []
        for part, chosen in self.places.items():
            found.append((part, [(sample, list(places)) for sample, places in chosen.items()]))
        return found

    def total(self, part: str) -> int:
        """How many there are of a part."""
        return sum(map(len, self.places.get(part, {}).values()))

    def samples(self, part: str) -> list[int]:
        """Those that calls of a part are observed of."""
        return [sample for sample, places in self.places.get(part, {}).items() if places]

    def before(self, sample: int) -> Counter[str]:
        """How many there are of each part in all samples before one."""
        found: Counter[str] = Counter()
        for part, chosen in self.places.items():
            samples = list(chosen)
            found[part] = sum(len(chosen[earlier]) for earlier in samples[: samples.index(sample)])
        return found

    def last(self, sample: int) -> dict[str, int]:
        """How many calls each part has begun in a sample when the last of them begins; 0 if there is none."""
        return {part: max(chosen[sample], default=-1) + 1 for part, chosen in self.places.items()}
