"""A few calls that are spread over samples, steps and branches, and a float run that looks at those alone."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llmc.algorithms.gptq import GPTQ
from llmc.calib.budget import FEW, LARGE, ChosenCalls, spread_calls
from llmc.calib.coverage import Coverage
from llmc.calib.record import Watch, record_calls
from llmc.calib.samples import read_samples
from llmc.calib.store import CallStore
from llmc.engine.budget import calls_wanted, chosen_calls, samples_to_run
from llmc.engine.calibrate import until_seen
from llmc.engine.network import Network, prepare
from llmc.models.base import adapters
from llmc.models.loaded import LoadedModel
from llmc.models.samples import Sample, Sampling
from llmc.numerics.spec import LayerSpec, TensorSpec
from llmc.policy.rules import Policy
from tests.tiny_pipelines import TINY, save_samples

W8A8 = LayerSpec(
    weight=TensorSpec(format="int8", granularity="per_channel"), act=TensorSpec(format="int8", granularity="per_token")
)
STATIC = LayerSpec(
    weight=TensorSpec(format="int8", granularity="per_channel"),
    act=TensorSpec(format="int8", granularity="per_tensor", dynamic=False),
)
GRIDS = [(4, 40, 2), (3, 20, 2), (1, 50, 1), (1, 4, 2), (5, 4, 1), (18, 4, 2), (7, 9, 3)]


def cells(samples: int, steps: int, branches: int, count: int) -> list[tuple[int, int, int]]:
    """Sample, step and branch of each chosen call."""
    found = []
    for sample, places in enumerate(spread_calls(samples, steps, branches, count)):
        found += [(sample, *divmod(place, branches)) for place in places]
    return found


@pytest.mark.parametrize("grid", GRIDS)
def test_no_call_is_chosen_twice_and_a_budget_for_all_takes_all(grid: tuple[int, int, int]) -> None:
    samples, steps, branches = grid
    for count in range(1, samples * steps * branches + 1):
        assert len(set(cells(*grid, count))) == count
    places = [list(range(steps * branches))] * samples
    assert spread_calls(*grid, samples * steps * branches) == spread_calls(*grid, 10**9) == places


@pytest.mark.parametrize("grid", GRIDS)
def test_each_sample_and_each_step_comes_as_often_as_any_other(grid: tuple[int, int, int]) -> None:
    for count in range(1, grid[0] * grid[1] * grid[2] + 1):
        chosen = cells(*grid, count)
        for axis in (0, 1):
            often = Counter(cell[axis] for cell in chosen)
            assert len(often) == min(count, grid[axis]) and max(often.values()) - min(often.values()) <= 1


@pytest.mark.parametrize("grid", GRIDS)
def test_the_calls_of_a_sample_take_turns_in_the_branches(grid: tuple[int, int, int]) -> None:
    for count in range(grid[2], grid[0] * grid[1] * grid[2] + 1):
        chosen = cells(*grid, count)
        for sample in range(grid[0]):
            often = Counter(branch for which, _, branch in chosen if which == sample)
            assert max(often.values(), default=0) - min((often[b] for b in range(grid[2])), default=0) <= 1
        assert len({branch for _, _, branch in chosen}) == grid[2]


def test_fewer_calls_than_samples_take_samples_from_the_whole_list() -> None:
    assert [sample for sample, _, _ in cells(12, 4, 2, 3)] == [0, 4, 8]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("experts")
    TINY["Wan2T2V"][0](folder / "model")
    save_samples(folder / "samples", 3)
    return folder


class Experts:
    """Two experts of three steps each, and three samples."""

    def __init__(self, folder: Path, spec: LayerSpec = W8A8) -> None:
        self.adapter = adapters()["Wan2T2V"]()
        self.pipeline: Any = self.adapter.load(folder / "model", "auto", "cpu")
        self.networks = [prepare(part, Policy(spec), (), [GPTQ()]) for part in self.adapter.parts(self.pipeline)]
        how = TINY["Wan2T2V"][1].model_copy(update={"steps": 6})
        samples = read_samples(folder / "samples", needs_image=False)
        self.planned: list[tuple[int, Sample, Sampling]] = [
            (index, sample, how) for index, sample in enumerate(samples)
        ]
        self.made = self.adapter.call_counts(self.pipeline, how)

    def record(self, chosen: ChosenCalls, planned: Any = None) -> tuple[dict[str, CallStore], Coverage, Counter[str]]:
        """What is kept and counted of the chosen calls, and how often each expert ran."""
        parts, coverage, began = self.adapter.parts(self.pipeline), Coverage(), Counter[str]()
        stores = {part.name: CallStore() for part in parts}
        hooks = [
            part.module.register_forward_pre_hook(lambda *_, name=part.name: began.update([name])) for part in parts
        ]
        until = until_seen(parts, chosen, {})
        planned = self.planned if planned is None else planned
        record_calls(
            LoadedModel(self.adapter, self.pipeline),
            parts,
            planned,
            stores,
            watch=Watch(chosen, until, coverage=coverage),
        )
        for hook in hooks:
            hook.remove()
        return stores, coverage, began


def test_each_expert_has_its_own_calls_of_its_own_steps(folder: Path) -> None:
    experts = Experts(folder)
    chosen = chosen_calls(LoadedModel(experts.adapter, experts.pipeline), experts.networks, experts.planned, 4)
    stores, coverage, _ = experts.record(chosen)
    for name, store in stores.items():
        calls = store.headers()
        assert [call.number for call in calls] == [0, 1, 2, 3] and chosen.total(name) == 4
        assert {call.sample for call in calls} == {0, 1, 2} and {call.branch for call in calls} == {"cond", "uncond"}
        counted = {sample: sum(steps.values()) for sample, steps in coverage.calls[name].items()}
        assert counted == Counter(call.sample for call in calls)
    high, low = ({call.step for call in store.headers()} for store in stores.values())
    own = experts.made["transformer"] // 2
    assert high == set(range(own)) and low == set(range(own, 6))


def test_chosen_calls_are_those_of_a_recording_of_all(folder: Path) -> None:
    experts = Experts(folder)
    everything = chosen_calls(LoadedModel(experts.adapter, experts.pipeline), experts.networks, experts.planned, None)
    some = chosen_calls(LoadedModel(experts.adapter, experts.pipeline), experts.networks, experts.planned, 5)
    (whole, _, _), (few, _, _) = experts.record(everything), experts.record(some)
    for name in whole:
        by_place = {(call.sample, call.step, call.branch): call for call in whole[name].calls("cpu")}
        assert len(by_place) == experts.made[name] * 3
        for call in few[name].calls("cpu"):
            other = by_place[call.sample, call.step, call.branch]
            assert call.kwargs["hidden_states"].equal(other.kwargs["hidden_states"])


def test_a_sample_is_left_at_its_last_chosen_call_and_not_run_without_one(folder: Path) -> None:
    experts = Experts(folder)
    chosen = ChosenCalls({"transformer": {0: [0, 1], 1: [], 2: []}, "transformer_2": {0: [], 1: [], 2: [1]}})
    planned = samples_to_run(experts.networks, experts.planned, chosen)
    assert [index for index, _, _ in planned] == [0, 2]
    stores, _, began = experts.record(chosen, planned)
    assert began == {"transformer": 2 + experts.made["transformer"], "transformer_2": 2}
    assert [(call.sample, call.number) for call in stores["transformer_2"].headers()] == [(2, 0)]
    assert chosen.before(2) == {"transformer": 2, "transformer_2": 0}


def enlarged(network: Network, monkeypatch: pytest.MonkeyPatch) -> Network:
    """The same, as if its linears were those of a large network."""
    monkeypatch.setattr("llmc.engine.budget.LARGE", sum(layer.weight.numel() for layer in network.layers.values()))
    return network


@pytest.mark.parametrize(("spec", "count"), [(W8A8, FEW), (STATIC, None)], ids=["dynamic", "static"])
def test_by_default_a_large_network_has_few_calls_unless_its_acts_are_static(
    spec: LayerSpec, count: int | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Experts(folder, spec).networks[0]
    assert sum(layer.weight.numel() for layer in network.layers.values()) < LARGE
    assert calls_wanted(network, "auto") is None
    assert calls_wanted(enlarged(network, monkeypatch), "auto") == count
    assert (calls_wanted(network, None), calls_wanted(network, 3)) == (None, 3)
