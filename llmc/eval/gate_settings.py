"""`eval.gate`: what a run must reach, and how it was decided whether it did."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from llmc.plugin import Strict

LEAST_SAMPLES = 6  # of fewer, that all differ in one direction happens by chance too often


class Gate(Strict):
    """What a quantized model must not be worse than, for a run to end well."""

    metric: str = Field(
        min_length=1, max_length=100, description="one of `eval.metrics`, teacher_forced_error or latent_error"
    )
    no_worse_than: float | str = Field(
        description="a position that is judged, such as baseline; fp8, which is judged for it; the folder of another "
        "run over the same samples and seeds; or a figure"
    )
    confidence: float = Field(
        95.0,
        ge=50,
        le=99.9,
        description="of the interval, in percent; a model that is no better passes by half of the rest",
    )

    def problems(self, metrics: Sequence[str], positions: Sequence[str], samples: int) -> list[str]:
        """What is wrong with it, before anything is judged."""
        found, bound = [], self.no_worse_than
        if self.metric not in metrics:
            found.append(f"its metric is {self.metric}, which is not measured; there are {', '.join(metrics)}: add it")
        if isinstance(bound, str) and bound not in positions and not (Path(bound) / "results.json").is_file():
            found.append(
                f"no_worse_than is {bound}; positions that are judged are {', '.join(positions)}, and no folder of "
                "that name has a results.json: name a position, a run or a figure"
            )
        if "fake_quant" not in positions:
            found.append("it holds fake_quant to something, which eval_pos leaves out; add it there")
        if samples < LEAST_SAMPLES:
            found.append(f"{samples} samples cannot tell a difference from chance; give eval at least {LEAST_SAMPLES}")
        return found


class GateResult(Strict):
    """How a gate was decided, and the sentence that says why."""

    verdict: Literal["passed", "failed", "undecided"]
    sentence: str
    gain: float | None = None
    low: float | None = None
    high: float | None = None
