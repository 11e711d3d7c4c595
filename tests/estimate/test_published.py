"""What is told of models of published sizes, from their configurations alone."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.memory import RECIPES
from benchmarks.published import write_published
from llmc.__main__ import main
from llmc.compat.load import load_config
from llmc.estimate.facts import Facts, facts_of
from llmc.estimate.held import Held, Settings
from llmc.estimate.machine import ELSEWHERE, Machine
from llmc.estimate.stages import peaks, stages_of
from llmc.estimate.verdict import judge_fit

GB = 10**9
UNJUDGED = ["eval=null"]


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Facts:
    """Wan2.1 I2V 14B at 480p and 81 frames, smoothed, not judged."""
    folder = write_published("Wan2.1-I2V-14B", tmp_path_factory.mktemp("published"))
    return facts_of(load_config(RECIPES / "wan_i2v" / "smoothquant_w_a.yaml", [f"model.path={folder}", *UNJUDGED]))


def test_sizes_of_a_network_are_those_of_its_tensors(large: Facts) -> None:
    (work,) = large.work
    assert len(work.blocks) == 40 and max(work.lent) / GB == pytest.approx(0.807, rel=0.01)
    assert (sum(work.lent) + work.stem) / GB == pytest.approx(32.8, rel=0.01)
    assert work.stream == 32_760 * 5120 * 2
    assert large.shapes.components["text_encoder"] / GB == pytest.approx(11.4, rel=0.01)


def test_operations_are_those_of_its_products_and_attentions(large: Facts) -> None:
    tokens, dim, ffn, context = 32_760, 5120, 13_824, 512 + 257
    block = 2 * tokens * (6 * dim * dim + 2 * dim * ffn) + 4 * tokens * (tokens + context) * dim
    block += 2 * context * 2 * dim * dim
    (work,) = large.work
    assert work.flops == pytest.approx(40 * block, rel=0.01)


def test_fewer_blocks_stay_on_a_smaller_device_and_none_is_advised_where_too_many_would(large: Facts) -> None:
    found = {size: judge_fit(large, Machine(ELSEWHERE, size * GB, 64 * GB)) for size in (24, 48, 80)}
    stay = {size: verdict.held.resident(large.work[0]) for size, verdict in found.items()}
    assert 0 <= stay[24] < stay[48] < stay[80] == 40
    assert found[80].fits
    for verdict in found.values():
        if verdict.advice:
            assert verdict.changed is not None
            again = stages_of(replace(verdict.held, settings=verdict.changed))
            assert peaks(again)[0] < verdict.machine.device  # type: ignore[operator]


def test_each_setting_moves_what_it_is_for(large: Facts) -> None:
    machine = Machine(ELSEWHERE, None, 64 * GB)

    def stages(**changes: Any) -> dict[str, Any]:
        settings = replace(Settings(0, 10**12, False), **changes)
        return {stage.name: stage for stage in stages_of(Held(large, settings, machine))}

    usual, resident = stages(), stages(resident=10)
    (work,) = large.work
    assert resident["record"].device - usual["record"].device == 10 * max(work.lent)
    assert resident["record"].reads < usual["record"].reads
    streamed, files = stages(streamed=True), stages(streamed=True, memory=0)
    assert streamed["record"].host < usual["record"].host and streamed["calibrate"].forwards > 0
    kept = large.calib.total(work.name) * work.stream  # type: ignore[union-attr]
    assert streamed["calibrate"].host - files["calibrate"].host == kept
    assert files["calibrate"].disk - streamed["calibrate"].disk == kept


def test_the_command_says_it_in_words_and_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_published("Wan2.1-T2V-1.3B", tmp_path)
    command = ["estimate", str(RECIPES / "wan_t2v" / "rtn_w_a_fp8.yaml"), "--set", f"model.path={folder}",
               "--set", "eval=null", "--budget", "24GB", "--ram", "32GB"]  # fmt: skip
    assert main(command) == 0
    said = capsys.readouterr().out
    assert "24 GB of the device" in said and said.splitlines()[-1].startswith("fits: ")
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["fits"] and found["machine"] == {"kind": "cuda", "device": 24 * GB, "host": 32 * GB}
    assert [stage["name"] for stage in found["stages"]] == ["load", "calibrate", "export"]
    assert main([*command[:-4], "--budget", "much"]) == 2
    assert "--budget is 'much'" in capsys.readouterr().err


def test_what_does_not_fit_is_told_with_what_helps(large: Facts) -> None:
    small = judge_fit(large, Machine(ELSEWHERE, 2 * GB, 64 * GB))
    assert not small.fits and small.advice == {}
    needed = peaks(stages_of(Held(large, Settings(0, None, False), small.machine)))[0]
    tight = judge_fit(large, Machine(ELSEWHERE, needed + 2 * GB, 64 * GB))
    assert tight.fits or set(tight.advice) == {"base.resident"}
