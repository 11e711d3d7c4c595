"""However many processes share the samples, each of them comes to what one alone comes to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.end_to_end.small_run import small_config

INT8 = {"weight": {"bit": 8, "granularity": "per_channel"}, "act": {"bit": 8, "granularity": "per_token"}}
STATIC = INT8 | {"act": {"bit": 8, "granularity": "per_tensor", "static": True, "symmetric": False}}
FAKE = {"save_lightx2v": False, "save_fake": True}


@dataclass
class Job:
    """One run by so many ranks, and what came of it."""

    folder: Path
    ranks: int
    config: Path
    overrides: tuple[str, ...] = ()
    said: list[dict[str, Any]] = field(default_factory=list)  # by each rank, of layers, attentions and coverage
    tensors: dict[str, torch.Tensor] = field(default_factory=dict)  # of all files of the export

    def read(self) -> None:
        self.said = [json.loads((self.folder / f"rank{rank}.json").read_text()) for rank in range(self.ranks)]
        for file in sorted((self.folder / "export").rglob("*.safetensors")):
            self.tensors |= {f"{file.parent.name}.{name}": tensor for name, tensor in load_file(file).items()}


def done(*jobs: Job) -> None:
    """Run them one after another."""
    told = [[str(job.folder), job.ranks, str(job.config), job.overrides] for job in jobs]
    command = [sys.executable, "-m", "tests.distributed.ranks", json.dumps(told)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, env=environment)
    assert process.returncode == 0, process.stderr[-6000:]
    for job in jobs:
        job.read()


def assert_alike(one: Job, other: Job) -> None:
    assert one.tensors.keys() == other.tensors.keys()
    assert [name for name, tensor in one.tensors.items() if not tensor.equal(other.tensors[name])] == []
    for said in other.said:  # of its own codes: that ranks agree is no chance
        assert said == one.said[0]


def test_ranks_come_to_the_same_codes_as_one_even_if_some_have_no_sample(tmp_path: Path) -> None:
    recipe = {"video_gen": {"method": {"name": "SmoothQuant", "alpha": "search"}, **INT8}}
    config = small_config(tmp_path, samples=3, eval=None, quant=recipe)
    (tmp_path / "judged").mkdir()
    judged = small_config(tmp_path / "judged", samples=1, quant=recipe)
    one, two = (Job(tmp_path / str(ranks), ranks, config) for ranks in (1, 2))
    lone, lonely = (Job(tmp_path / f"judged{ranks}", ranks, judged) for ranks in (1, 4))
    done(one, two, lone, lonely)
    assert_alike(one, two)
    assert_alike(lone, lonely)
    figures = [json.loads((job.folder / "run" / "results.json").read_text())["metrics"] for job in (lone, lonely)]
    assert figures[0] == figures[1]
