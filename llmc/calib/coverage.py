"""Which steps of which samples each part was called for: an expert that never saw a prompt knows nothing of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmc import distributed


@dataclass
class Coverage:
    """Calls of the calibration, counted."""

    calls: dict[str, dict[int, dict[int, int]]] = field(default_factory=dict)  # part -> sample -> step -> calls

    def note(self, part: str, sample: int, step: int) -> None:
        """One call."""
        steps = self.calls.setdefault(part, {}).setdefault(sample, {})
        steps[step] = steps.get(step, 0) + 1

    def of(self, sample: int) -> Coverage:
        """The calls of one sample."""
        return Coverage({part: {sample: dict(steps[sample])} for part, steps in self.calls.items() if sample in steps})

    def add(self, other: Coverage) -> None:
        """Count the calls of other samples too."""
        for part, samples in other.calls.items():
            self.calls.setdefault(part, {}).update(samples)

    def reduce(self) -> None:
        """Add what the other ranks saw: each has samples of its own."""
        total = Coverage()
        for seen in distributed.gather(self):
            total.add(seen)
        self.calls = {part: dict(sorted(samples.items())) for part, samples in total.calls.items()}

    def gaps(self, parts: Sequence[str]) -> list[str]:
        """One sentence for each part that saw no call of some samples."""
        everyone = {sample for samples in self.calls.values() for sample in samples}
        missing = {part: sorted(everyone - self.calls.get(part, {}).keys()) for part in parts}
        return [
            f"{part} saw no call of the samples {', '.join(map(str, samples))}: its statistics know nothing of them"
            for part, samples in missing.items()
            if samples
        ]
