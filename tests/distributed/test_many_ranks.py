"""However many processes share the samples, each of them comes to what one alone comes to."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.distributed import ranks
from tests.end_to_end.small_run import small_config
from tests.processes import run

INT8 = {"weight": {"bit": 8, "granularity": "per_channel"}, "act": {"bit": 8, "granularity": "per_token"}}
STATIC = INT8 | {"act": {"bit": 8, "granularity": "per_tensor", "static": True, "symmetric": False}}
INT4 = {"weight": {"bit": 4, "granularity": "per_group", "group_size": 16}, "act": INT8["act"]}
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
    for job in jobs:
        job.folder.mkdir()
        ended = run([job.folder, job.config, *job.overrides], job.ranks, ranks.main)
        assert [rank.code for rank in ended] == [0] * job.ranks, ended
        job.read()


def assert_alike(one: Job, other: Job) -> None:
    assert different(one, other) == {}
    for said in other.said:  # of its own codes: that ranks agree is no chance
        assert said == one.said[0]


def different(one: Job, other: Job) -> dict[str, int]:
    """How many values of each tensor differ, where some do."""
    assert one.tensors.keys() == other.tensors.keys() and one.tensors
    counts = {name: int((tensor != other.tensors[name]).sum()) for name, tensor in one.tensors.items()}
    return {name: count for name, count in counts.items() if count}


def far_apart(one: torch.Tensor, other: torch.Tensor) -> int:
    """How many values differ by more than a share of a step of 4 bits, which is a seventh of the largest."""
    return int(((one - other).abs() > 0.01 * one.abs().max()).sum())


def test_ranks_come_to_the_same_codes_as_one_even_if_some_have_no_sample(tmp_path: Path) -> None:
    recipe = {"video_gen": {"method": {"name": "SmoothQuant", "alpha": "search"}, **INT8}}
    judged = small_config(tmp_path, samples=3, eval={"n_samples": 1}, quant=recipe)  # by the first of two ranks alone
    (tmp_path / "alone").mkdir()
    alone = small_config(tmp_path / "alone", eval=None, quant=recipe)  # so that two of three ranks have nothing to see
    one, two = (Job(tmp_path / f"judged{count}", count, judged) for count in (1, 2))
    lone, lonely = (Job(tmp_path / f"alone{count}", count, alone) for count in (1, 3))
    done(one, two, lone, lonely)
    assert_alike(one, two)
    assert_alike(lone, lonely)
    found = [json.loads((job.folder / "run" / "results.json").read_text()) for job in (one, two)]
    assert all(found[0][what] == found[1][what] for what in ("metrics", "blocks", "samples"))


EXACT: dict[str, dict[str, Any]] = {  # recipes of largest magnitudes, ranges, means and rows
    "AWQ": {"method": "Awq", **INT8},
    "flexible smoothing, static acts": {"method": ["FlexSmooth", {"name": "Static", "range": "output"}], **STATIC},
    "rotation, a low rank, 4 bits": {"method": ["Hadamard", "LowRank"], **INT4},
    "a scale for each step": {"method": ["SmoothQuant", {"name": "Timestep", "timestep_sep": 1}], **STATIC},
    "attention": {"method": "RTN", **INT8, "attention": {"bit": 8, "static": True, "max_error": 0.00002}},
}
SUMS: dict[str, dict[str, Any]] = {  # and those of sums over all tokens
    "GPTQ": {"method": ["SmoothQuant", "GPTQ"], **INT4},
    "GPTQ on float inputs": {"method": {"name": "GPTQ", "target": "asymmetric"}, **INT4},
    "error reconstruction": {"method": ["GPTQ", {"name": "LowRank", "of": "error"}], **INT4},
}


def jobs(folder: Path, quant: dict[str, Any], family: str = "WanI2V", streamed: bool = False) -> list[Job]:
    """The same run by one, two and four ranks: of three samples, so that of four ranks one has none."""
    calib = {"streamed": streamed}
    config = small_config(folder, samples=3, family=family, eval=None, quant=quant, save=FAKE, calib=calib)
    made = [Job(folder / str(count), count, config) for count in (1, 2, 4)]
    done(*made)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("streamed", [False, True], ids=["at once", "streamed"])
@pytest.mark.parametrize("name", EXACT)
def test_each_recipe_gives_the_same_codes_by_any_number_of_ranks(name: str, streamed: bool, tmp_path: Path) -> None:
    one, *others = jobs(tmp_path, {"video_gen": EXACT[name]}, streamed=streamed)
    for other in others:
        assert_alike(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 5])
def test_a_few_chosen_calls_are_the_same_by_any_number_of_ranks(count: int, tmp_path: Path) -> None:
    """Two calls leave one of the three samples out."""
    few = {"max_calls": count, "streamed": True}
    for family, sections in {"WanI2V": ("video_gen",), "Wan2T2V": ("video_gen", "text_encoder")}.items():
        folder = tmp_path / family
        folder.mkdir()
        quant = dict.fromkeys(sections, EXACT["AWQ"])
        config = small_config(folder, samples=3, family=family, eval=None, quant=quant, save=FAKE, calib=few)
        one, *others = [Job(folder / str(ranks), ranks, config) for ranks in (1, 2, 4)]
        done(one, *others)
        for other in others:
            assert_alike(one, other)


@pytest.mark.slow
def test_two_experts_and_encoders_come_to_the_same_by_any_number_of_ranks(tmp_path: Path) -> None:
    smooth = {"method": {"name": "SmoothQuant", "alpha": "search"}, **INT8}
    one, *others = jobs(tmp_path, {"video_gen": smooth, "text_encoder": smooth}, "Wan2T2V")
    for other in others:
        assert_alike(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", SUMS)
def test_sums_in_another_order_change_few_codes(name: str, tmp_path: Path) -> None:
    """Scales and branches that follow sums are others in their last bits, and with them all values; codes are not."""
    one, *others = jobs(tmp_path, {"video_gen": SUMS[name]})
    total = sum(tensor.numel() for tensor in one.tensors.values())
    for other in others:
        changed = sum(far_apart(tensor, other.tensors[key]) for key, tensor in one.tensors.items())
        print(f"{name}, {other.ranks} ranks: {changed} of {total} values differ by a code")
        assert changed < 0.01 * total
        assert all(said == other.said[0] for said in other.said)
