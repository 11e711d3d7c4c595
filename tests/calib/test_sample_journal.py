"""What was recorded and observed of finished samples comes back to the bit."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import nn

from llmc.calib.coverage import Coverage
from llmc.calib.group import Group
from llmc.calib.observation import Observation
from llmc.calib.observers import OBSERVERS
from llmc.calib.running import at_call
from llmc.calib.sample_journal import SampleJournal
from llmc.calib.store import Call
from llmc.calib.value_folder import Kept
from llmc.layers.linear import QuantLinear
from llmc.layers.steps import at_step
from llmc.numerics.spec import LayerSpec, TensorSpec

WIDTH, CALLS = 48, 6
W8 = LayerSpec(weight=TensorSpec(format="int8", granularity="per_channel"))


@pytest.fixture
def group() -> Group:
    layer = QuantLinear(nn.Linear(WIDTH, 8), W8)
    return Group("part.blocks.0.linear", ("blocks.0.linear",), (layer,), ())


def observed(group: Group) -> Observation:
    return Observation([group], frozenset(OBSERVERS), CALLS, max_rows=32)


def see(observation: Observation, calls: Sequence[int]) -> None:
    for call in calls:
        x = torch.randn(1, 40, WIDTH, generator=torch.Generator().manual_seed(call)).bfloat16()
        with at_step(call % 3), at_call(Call(call // 2, call % 3, 1.0, "cond", number=call)):
            observation.see("part.blocks.0.linear", x, x + 0.1)


def attached(observation: Observation, group: Group) -> dict[str, torch.Tensor]:
    observation.attach()
    return group.stats | {name: moment.result() for name, moment in group.sums.items()}


@pytest.mark.parametrize("seen_before", [0, 1, 4])
def test_observers_that_go_on_end_where_those_end_that_were_not_cut_off(
    group: Group, seen_before: int, tmp_path: Path
) -> None:
    whole, cut_off, goes_on = observed(group), observed(group), observed(group)
    see(whole, range(CALLS))
    see(cut_off, range(seen_before))
    Kept(tmp_path).put("state", cut_off.state(group))
    goes_on.restore(group, Kept(tmp_path).get("state"))
    see(goes_on, range(seen_before, CALLS))
    one, other = dict(attached(whole, group)), attached(goes_on, group)
    assert one.keys() == other.keys() == OBSERVERS.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


class Run:
    """A run over three samples, of which each makes two calls of a part."""

    def __init__(self, folder: Path, group: Group) -> None:
        self.group, self.observation = group, observed(group)
        self.journal = SampleJournal(folder, ["part"], [0, 1, 2], [self.observation])
        self.coverage = self.journal.coverage

    def make(self, count: int) -> list[int]:
        """The next few samples that are missing."""
        samples = self.journal.missing[:count]
        for sample in samples:
            for call in (2 * sample, 2 * sample + 1):
                see(self.observation, [call])
                self.coverage.note("part", sample, call % 3)
                self.journal.stores["part"].add(Call(sample, call % 3, 1.0, "cond", (torch.full((3,), call),)))
            self.journal.keep(sample, self.coverage)
        return samples

    def outcome(self) -> tuple[list[float], Coverage, dict[str, torch.Tensor]]:
        calls = [float(call.args[0][0]) for call in self.journal.stores["part"].calls("cpu")]
        return calls, self.coverage, dict(attached(self.observation, self.group))


def assert_whole(run: Run, folder: Path, group: Group) -> None:
    whole = Run(folder, group)
    assert whole.make(3) == [0, 1, 2]
    (calls, coverage, stats), (own_calls, own_coverage, own_stats) = whole.outcome(), run.outcome()
    assert (own_calls, own_coverage) == (calls, coverage)
    assert all(torch.equal(stats[name], own_stats[name]) for name in stats)


def test_a_run_goes_on_after_the_samples_that_are_finished(tmp_path: Path, group: Group) -> None:
    cut_off = Run(tmp_path / "cut off", group)
    assert cut_off.make(2) == [0, 1]
    see(cut_off.observation, [4])
    cut_off.journal.stores["part"].add(Call(2, 0, 1.0, "cond", (torch.zeros(3),)))
    assert [path.name for path in (tmp_path / "cut off").glob("observed-*")] == ["observed-2"]
    goes_on = Run(tmp_path / "cut off", group)
    assert len(list((tmp_path / "cut off" / "part").iterdir())) == 4, "what was cut off is gone"
    assert goes_on.make(3) == [2]
    assert_whole(goes_on, tmp_path / "whole", group)


def test_what_was_being_written_when_the_run_was_cut_off_does_not_count(tmp_path: Path, group: Group) -> None:
    folder = tmp_path / "cut off"
    Run(folder, group).make(1)
    shutil.copytree(folder, tmp_path / "before")
    Run(folder, group).make(1)
    (folder / "observed-2").rename(folder / "observed-2.partial")
    shutil.copytree(tmp_path / "before" / "observed-1", folder / "observed-1")
    goes_on = Run(folder, group)
    assert goes_on.make(3) == [1, 2]
    assert sorted(path.name for path in folder.glob("observed-*")) == ["observed-3"]
    assert_whole(goes_on, tmp_path / "whole", group)


@pytest.mark.parametrize("damaged", ["part/0.safetensors", "sample.1.safetensors", "observed-2/*.safetensors"])
def test_what_is_damaged_is_made_again(
    damaged: str, tmp_path: Path, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    Run(tmp_path / "cut off", group).make(2)
    (file,) = (tmp_path / "cut off").glob(damaged)
    file.write_bytes(file.read_bytes()[:-3])
    goes_on = Run(tmp_path / "cut off", group)
    assert str(file) in caplog.text and "is damaged, and made again" in caplog.text
    assert goes_on.make(3) == [0, 1, 2]
    assert_whole(goes_on, tmp_path / "whole", group)


def test_what_there_is_no_room_for_is_told_and_not_kept(
    tmp_path: Path, group: Group, caplog: pytest.LogCaptureFixture
) -> None:
    run = Run(tmp_path, group)
    run.observation.observers[group.name]["absmax"].restore({"value": torch.zeros(1).expand(10**15)})
    run.journal.keep(0, run.coverage)
    assert "and what was observed so far takes 4000 TB" in caplog.text
    assert list(tmp_path.glob("observed-*")) == [] and Run(tmp_path, group).journal.missing == [0, 1, 2]
