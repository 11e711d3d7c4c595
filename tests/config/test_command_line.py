"""The commands, in this process."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llmc.__main__ import main
from llmc.pipe import ended_with_its_reader

ROOT = Path(__file__).parents[2]
GOOD = str(ROOT / "configs/quantization/video_gen/wan_i2v_tiny/smoothquant_w_a.yaml")


def test_check_says_what_will_happen(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", GOOD, "--set", "calib.sample_steps=4"]) == 0
    said = capsys.readouterr().out
    assert "SmoothQuant (alpha search)" in said and "4 steps" in said and "lightx2v to runs/" in said


@pytest.mark.parametrize(
    ("budget", "says"),
    [
        ("null", "480 calls, all of them observed\n"),
        ("auto", "480 calls, all of them observed, or 64 of a large network"),
        ("16", "up to 480 calls of 12 of 12 samples, 16 of each network observed"),
        ("8", "up to 320 calls of 8 of 12 samples, 8 of each network observed"),
    ],
)
def test_check_says_how_many_calls_the_calibration_makes_and_observes(
    budget: str, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", GOOD, "--set", f"calib.max_calls={budget}"]) == 0
    assert says in capsys.readouterr().out


def test_a_budget_of_no_call_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", GOOD, "--set", "calib.max_calls=0"]) == 2
    assert "calib.max_calls: it is 0; it must be at least 1" in capsys.readouterr().err


def test_check_warns_of_too_few_samples_for_what_solves_for_them(capsys: pytest.CaptureFixture[str]) -> None:
    solving = ["--set", "quant.video_gen.special={}", "--set", "quant.video_gen.method=GPTQ"]
    few = ["--set", "calib.n_samples=2"]
    assert main(["check", GOOD, *solving, *few]) == 0
    assert "warning: GPTQ would see 2 calibration samples" in capsys.readouterr().out
    for enough in (solving, few):
        assert main(["check", GOOD, *enough]) == 0
        assert "warning" not in capsys.readouterr().out


def test_a_bare_config_means_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config", GOOD, "--set", "model.type=Wan"]) == 2
    assert "model.type" in capsys.readouterr().err


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert "calib" in json.loads(capsys.readouterr().out)["properties"]


def test_list_names_the_plug_ins_of_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    for name in ("SmoothQuant", "int8", "WanI2V", "lightx2v", "psnr"):
        assert f"\n  {name} " in said


def test_without_a_command_every_command_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    said = capsys.readouterr().err
    for command in ("run", "quant", "check", "verify", "list", "schema"):
        assert re.search(rf"^    {command} +\w+", said, re.MULTILINE)


CONVERTER = [
    "scripts/converter.py", "-s", "assets/tiny_wan_i2v/transformer", "-o", "unwritten", "-d", "backward", "--dry-run",
]  # fmt: skip


@pytest.mark.parametrize(
    "command", [["-m", "llmc", "list"], ["-m", "llmc", "check", GOOD], CONVERTER], ids=["list", "check", "converter"]
)
def test_a_pipe_that_nobody_reads_ends_the_command_without_a_word(command: list[str]) -> None:
    with subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout is not None and running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == ""
    assert running.returncode == 141


def test_another_pipe_that_breaks_is_no_reader_that_left() -> None:
    with pytest.raises(BrokenPipeError), ended_with_its_reader():
        raise BrokenPipeError


def test_ranks_after_the_first_are_silent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    assert main(["check", "missing.yaml"]) == 2
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("quant.video_gen.rules=[{match: nothing.*, weight: {bit: 4}}]", "matches no layer"),
        ("quant.video_gen.weight={bit: 8, granularity: per_group, group_size: 24}", "does not divide the 128 inputs"),
        ("quant.video_gen.method=[{name: Hadamard, block_size: 12}]", "does not divide its 128 inputs"),
        ("ignored_layers={block_ids: 99}", "the blocks 99, which"),
    ],
)
def test_check_refuses_what_the_layers_of_the_model_cannot_take(
    override: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", GOOD, "--set", "save={}", "--set", "quant.video_gen.special={}", "--set", override]) == 2
    assert words in capsys.readouterr().err


def test_what_a_configuration_holds_takes_no_effect_on_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", GOOD, "--set", "\x1b[31m=1", "--set", 'model.type="\\e[2J\\u202e"']) == 2
    said = capsys.readouterr().err
    assert "\\x1b[31m: unknown key" in said and "\\x1b[2J" in said and "\\u202e" in said
    assert "\x1b" not in said and "\u202e" not in said
    assert main(["check", GOOD, "--set", 'calib.prompts=["\\e[2J"]', "--set", 'save.save_path="\\u3000全"']) == 0
    assert "\u3000全" in capsys.readouterr().out


@pytest.mark.parametrize("override", ["calib.path=/nowhere", "quant.video_gen.rules=[{match: nothing.*, skip: True}]"])
def test_nothing_is_translated_that_would_be_refused(override: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", GOOD, "--translate"]) == 0
    assert "# smoothquant_w_a.yaml, in the words of llmc." in capsys.readouterr().out
    assert main(["check", GOOD, "--translate", "--set", override]) == 2
    said, error = capsys.readouterr()
    assert said == "" and override.partition(": ")[2].partition(",")[0] in error


@pytest.mark.parametrize("override", ["model.lora=[{path: %s}]", "model.transformer=%s"])
def test_check_refuses_files_of_other_weights(
    override: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    save_file({"a": torch.zeros(1)}, tmp_path / "other.safetensors")
    assert main(["check", GOOD, "--set", override % tmp_path]) == 2
    assert str(tmp_path) in capsys.readouterr().err


def test_a_place_that_cannot_be_written_is_told_without_a_traceback(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", "--config", GOOD, "--set", "base.run_dir=/proc/self/nothing"]) == 2
    assert "/proc/self/nothing" in capsys.readouterr().err


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(Exception, match="does not exist"):
        main(["check", "missing.yaml", "--debug"])
