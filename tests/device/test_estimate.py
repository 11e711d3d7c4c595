"""What an estimate says against what a run measures, on a device that counts the bytes of its tensors."""

from __future__ import annotations

import gc
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from llmc.__main__ import main
from llmc.compat.load import load_config
from llmc.estimate.facts import facts_of
from llmc.estimate.machine import machine_for
from llmc.estimate.stages import Stage
from llmc.estimate.text import PHASES
from llmc.estimate.verdict import judge_fit
from tests.device.pretended import NAME, Pretended
from tests.end_to_end.small_run import small_config
from tests.slices import by_default

VIDEO = {"target_height": 64, "target_width": 64, "num_frames": 17}
IMAGE = {"target_height": 128, "target_width": 128, "num_frames": None, "name": "t2i"}
FAKE = {"save_lightx2v": False, "save_fake": True}
SMOOTH_GPTQ = [{"name": "SmoothQuant", "alpha": 0.5}, {"name": "GPTQ"}]


@dataclass(frozen=True)
class Case:
    """A run of a tiny model: how it is calibrated, what is made of it, and what of it stays where."""

    family: str
    method: Any = field(default_factory=lambda: {"name": "SmoothQuant", "alpha": 0.5})
    base: dict[str, Any] = field(default_factory=dict)
    calib: dict[str, Any] = field(default_factory=dict)
    save: dict[str, Any] = field(default_factory=lambda: FAKE)
    judged: bool = False

    def write(self, folder: Path) -> Path:
        """Its configuration, with a model and two samples."""
        size = IMAGE if self.family in ("Flux", "SD3") else VIDEO
        quant = {
            "video_gen": {
                "method": self.method,
                "weight": {"bit": 8, "granularity": "per_channel"},
                "act": {"bit": 8, "granularity": "per_token"},
            }
        }
        judging = {"eval": {**size, "metrics": ["psnr"]}} if self.judged else {"eval": None}
        return small_config(
            folder, 2, self.family, base={"device": NAME, **self.base}, calib={**size, **self.calib},
            quant=quant, save=self.save, **judging,
        )  # fmt: skip


CASES = {
    "plain rounding": Case("WanI2V", method="RTN"),
    "SmoothQuant, judged": Case("WanI2V", judged=True),
    "SmoothQuant of a joint transformer": Case("HunyuanVideo"),
    "SmoothQuant, one block at a time, streams in files": Case(
        "Wan2T2V", base={"memory": 0}, calib={"streamed": True}
    ),
    "GPTQ, judged": Case("WanT2V", method=SMOOTH_GPTQ, judged=True),
    "GPTQ, all blocks lent": Case("Flux", method="GPTQ", base={"resident": 0}, judged=True),
    "AWQ": Case("WanT2V", method="Awq"),
    "rotated": Case("WanT2V", method="Hadamard", base={"resident": 1}),
}  # fmt: skip
DEFAULT = {"plain rounding", "SmoothQuant of a joint transformer", "SmoothQuant, one block at a time, streams in files"}


def estimated(config: Path) -> dict[str, list[Stage]]:
    """The stages of each phase of a run; the pretended device has no attention that holds no scores."""
    loaded = load_config(config)
    stages = judge_fit(facts_of(loaded, fused=False), machine_for(loaded.base.device)).stages
    found: dict[str, list[Stage]] = {}
    for stage in stages:
        found.setdefault(PHASES.get(stage.name, stage.name), []).append(stage)
    return found


@pytest.mark.parametrize("name", by_default(DEFAULT, CASES))
def test_an_estimate_comes_close_to_what_is_measured(name: str, pretended: Pretended, tmp_path: Path) -> None:
    config = CASES[name].write(tmp_path)
    gc.collect()
    pretended.forget()
    before = pretended.held
    assert main(["run", "--config", str(config)]) == 0
    phases = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))["phases"]
    said = estimated(config)
    forwards = {name: sum(stage.forwards for stage in stages) for name, stages in said.items()}
    assert forwards == {name: pytest.approx(phases[name]["forwards"], abs=0.02) for name in said}
    measured = max(phase["device_bytes"] for phase in phases.values()) - before
    peak = max(stage.device for stages in said.values() for stage in stages)
    print(f"{name}: {peak / 1e6:.2f} MB estimated, {measured / 1e6:.2f} MB measured, {peak / measured:.2f}")
    assert peak == pytest.approx(measured, rel=0.15)
