"""Every broken configuration gets one clear error that names the line, what was found, and what is allowed."""

import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmc.__main__ import main
from llmc.compat.load import load_config
from llmc.errors import ConfigError
from tests.config.conftest import Write

# (what is replaced, by what, words of the error); the error must name the line of the replacement
SPOILED = {
    "an unknown section": ("calib:", "calibration:", ["calibration", "unknown key", "did you mean calib?"]),
    "an unknown key": ("sample_steps: 20", "sample_step: 20", ["calib.sample_step", "did you mean sample_steps?"]),
    "a key twice": ("    sample_steps: 20", "    sample_steps: 20\n    sample_steps: 9", ["twice", "first in line 12"]),
    "an unknown method": ("method: SmoothQuant", "method: SmoothQaunt", ["did you mean SmoothQuant?", "RTN"]),
    "an unknown setting of a method": ("alpha: search", "alhpa: 0.5", ["special.alhpa", "did you mean alpha?"]),
    "a wrong setting of a method": ("alpha: search", "alpha: 7", ["special.alpha", "it is 7", "at most 1"]),
    "an unknown model family": ("type: WanI2V", "type: WanV2I", ["did you mean Wan2I2V?"]),
    "a number below its range": ("sample_steps: 20", "sample_steps: 0", ["it is 0", "at least 1"]),
    "text for a number": ("num_frames: 17", "num_frames: many", ["it is many", "a whole number is needed"]),
    "a switch for a number": ("num_frames: 17", "num_frames: True", ["it is True", "a whole number is needed"]),
    "an infinite number": ("guidance_scale: 1.5", "guidance_scale: .inf", ["it is inf", "finite"]),
    "a grid that does not exist": ("bit: 8", "bit: 9", ["bit is 9", "allowed:", "e4m3"]),
    "a float grid under an integer type": ("bit: 8", "bit: e4m3\n            quant_type: int-quant", ["float-quant"]),
    "a granularity of the other side": ("granularity: per_channel", "granularity: per_token", ["it is per_token"]),
    "a download": ("download: False", "download: True", ["nothing", "put the samples into `path`"]),
    "an unknown position": ("eval_pos: [fake_quant]", "eval_pos: [fakequant]", ["did you mean fake_quant?"]),
    "an unknown metric": ("eval_pos: [fake_quant]", "metrics: [psnr, vmf]", ["did you mean vmaf?", "ssim"]),
    "a number in quotes": ("sample_steps: 20", "sample_steps: '20'", ["it is '20'; a whole number is needed"]),
    "a list as a type": ("type: WanI2V", "type: [WanI2V]", ["it is [WanI2V]", "text is needed"]),
    "a scalar for a section": ("model:\n", "model: WanI2V\nmodel_:\n", ["it is WanI2V", "a section is needed"]),
    "a tab": ("    sample_steps: 20", "\tsample_steps: 20", ["tab", "spaces"]),
    "an unclosed bracket": ("eval_pos: [fake_quant]", "eval_pos: [fake_quant", ["brackets"]),
    "an unknown alias": ("seed: *seed", "seed: *sead", ["undefined alias", "sead"]),
    "an anchor without an end": ("eval_pos: [fake_quant]", "eval_pos: &a [*a]", ["its own alias"]),
    "a python object": ("torch_dtype: auto", "torch_dtype: !!python/name:os.system", ["write a plain value"]),
    "an impossible date": ("torch_dtype: auto", "torch_dtype: 2024-99-99", ["2024-99-99", "timestamp"]),
    "a number as a key": ("    bs: 1", "    1: bs", ["`1` is used as a key"]),
    "deep nesting": ("eval_pos: [fake_quant]", "eval_pos: " + "[" * 60 + "]" * 60, ["deeper than 50"]),
    "an empty path": ("path: ../assets/tiny_wan_i2v/", 'path: ""', ["the path is empty"]),
    "half a character": ("torch_dtype: auto", 'torch_dtype: "\\uD800"', ["half of a surrogate pair"]),
    "a character that does not exist": ("torch_dtype: auto", 'torch_dtype: "\\U00110000"', ["that is too large"]),
    "a tag that does not fit": ("download: False", "download: !!bool maybe", ["the tag", "maybe", "plain value"]),
    "bytes": ("torch_dtype: auto", "torch_dtype: !!binary aGVsbG8=", ["the tag", "plain value"]),
    "a number without an end": ("sample_steps: 20", "sample_steps: 0x" + "f" * 9000, ["more than 64 bits"]),
    "a control character in a path": ("path: ../assets/tiny_wan_i2v/", 'path: "a\\0b"', ["a\\x00b has control"]),
    "an unknown home": ("path: ../assets/tiny_wan_i2v/", "path: ~nosuchuser/x", ["~nosuchuser/x; no home folder"]),
    "a name that is too long": ("path: ../assets/tiny_wan_i2v/", f"path: {'n' * 300}", ["at most 255 bytes"]),
    "too many steps": ("sample_steps: 20", "sample_steps: 1000000000", ["it is 1000000000", "at most 1000"]),
    "a video that is too high": ("target_height: 64", "target_height: 1600000", ["it is 1600000", "at most 16384"]),
    "too many frames": ("num_frames: 17", "num_frames: 100001", ["it is 100001", "at most 10000"]),
    "a negative seed": ("eval_pos: [fake_quant]", "seeds: [1, -1]", ["eval.seeds.1", "it is -1", "at least 0"]),
    "a seed of 64 bits": ("eval_pos: [fake_quant]", f"seeds: [{2**63}]", ["at most 9223372036854775807"]),
    "a guidance of another world": ("guidance_scale: 1.5", "guidance_scale: 1.0e+308", ["at most 1000"]),
    "a glob without an end": ("save:\n", f"ignored_layers:\n  layer_names: ['{'*a' * 900}']\nsave:\n", ["at most 500"]),
    "blocks without an end": ("save:\n", "ignored_layers:\n    block_ids: 0-99999999999\nsave:\n", ["three digits"]),
    "an impossible block range": ("save:\n", "ignored_layers:\n    block_ids: 9-4\nsave:\n", ["9-4", "15-23"]),
}  # fmt: skip

# whole files (name -> bytes, words of the error)
FILES = {
    "nothing": (b"", ["is empty"]),
    "a comment alone": (b"# nothing\n", ["is empty"]),
    "a list": (b"- model\n", [":1: it holds a list"]),
    "a word": (b"SmoothQuant\n", ["single value"]),
    "another encoding": ("model:\n  path: caf\xe9\n".encode("latin-1"), [":2:", "0xe9", "UTF-8"]),
    "a binary file": (b"\x7fELF\0\0", ["binary"]),
    "a control character": (b"model:\n  path: \x07\n", [":2:", "cannot stand in YAML"]),
    "two documents": (b"model: {}\n---\nmodel: {}\n", [":2:", "single document"]),
    "an alias bomb": (
        b"a: &a [1,1,1,1,1,1,1,1,1,1]\n" + b"".join(
            b"%c: &%c [%s]\n" % (c, c, b",".join([b"*%c" % (c - 1)] * 10)) for c in range(ord("b"), ord("m"))
        ), ["aliases expand to more than 10000"],
    ),
    "aliases of a long text": (
        b"x: &x " + b"x" * 50_000 + b"\ny: [" + b"*x, " * 100 + b"]\n", ["expand to more than 1000000 characters"]
    ),
    "960 kB of items": (b"- 1\n" * 240_000, ["more than 200000 bytes"]),
    "many items": (b"- 1\n" * 45_000, ["more than 5000 keys and values"]),
    "9000 unknown keys": (b"".join(b"key%d: 1\n" % n for n in range(9000)), ["more than 5000 keys and values"]),
    "2400 unknown keys": (b"".join(b"key%d: 1\n" % n for n in range(2400)), ["2402 problems", "... and 2392 more"]),
    "a key with an escape": (b'"\\e[31mred\\nline": 1\n', ["\\x1b[31mred\\nline: unknown key"]),
    "aliases that nest": (
        b"x0: &x0 [1]\n" + b"".join(b"x%d: &x%d [*x%d]\n" % (i, i, i - 1) for i in range(1, 90)),
        [":", "deeper than 50"],
    ),
    "sections that are missing": (b"base: {seed: 1}\n", ["2 problems", "model: the key is missing", "quant:"]),
}  # fmt: skip


def error_of(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    return str(caught.value)


@pytest.mark.parametrize("what", SPOILED)
def test_a_spoiled_configuration_is_refused_with_its_line(what: str, good: str, write: Write) -> None:
    old, new, words = SPOILED[what]
    start = good.index(old)
    first = good.count("\n", 0, start) + 1
    message = error_of(write(good.replace(old, new, 1)))
    lines = range(first - 1, first + new.count("\n") + 1)  # the section, where a whole section does not fit together
    assert any(f"config.yaml:{line}:" in message for line in lines), message
    for word in words:
        assert word in message


@pytest.mark.parametrize("what", FILES)
def test_a_file_that_is_no_configuration_is_refused(what: str, write: Write) -> None:
    content, words = FILES[what]
    path = write(content)
    began = time.process_time()
    message = error_of(path)
    assert time.process_time() - began < 2 and len(message) < 5000
    for word in ["config.yaml", *words]:
        assert word in message


def test_halves_of_a_character_that_json_escapes_apart_are_one(write: Write, good: str) -> None:
    text = good.replace("    sample_steps: 20", '    sample_steps: 20\n    prompts: ["\\ud83d\\ude00"]', 1)
    assert load_config(write(text)).calib.prompts == ("😀",)


@pytest.mark.parametrize("name", ["/dev/zero", "a\0b", "n" * 300])
def test_what_is_no_file_is_refused_at_once(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", name]) == 2
    assert (said := capsys.readouterr().err).startswith("error: ") and "\0" not in said


def test_a_missing_file_names_its_neighbour(write: Write, good: str) -> None:
    path = write(good)
    assert f"did you mean {path}?" in error_of(path.with_name("confg.yaml"))


def test_a_folder_names_the_files_in_it(write: Write, good: str) -> None:
    path = write(good)
    assert "name one YAML file in it: config.yaml" in error_of(path.parent)


def test_several_problems_are_told_together_and_not_without_end(write: Write, good: str) -> None:
    text = good.replace("bs: 1", "bs: 3").replace("torch_dtype: auto", "torch_dtype: int8")
    message = error_of(write(text))
    assert "has 3 problems" in message
    many = "\n".join(f"key{n}: 1" for n in range(40))
    message = error_of(write(f"{good}\n{many}\n"))
    assert "... and 30 more" in message and len(message.splitlines()) == 12


def test_a_problem_inside_one_alternative_does_not_drag_the_other_alternatives_in(write: Write, good: str) -> None:
    rule = "        rules:\n          - {match: '*', weight: {bit: 9}}\n        special:"
    message = error_of(write(good.replace("        special:", rule)))
    assert "rules.0.weight.bit: bit is 9" in message and "inherit" not in message and "\n" not in message


def seconds_of_children() -> float:
    """What finished processes of ours have computed: a machine that is busy with others changes nothing of it."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize("what", ["a number below its range", "a tab", "a download"])
def test_the_command_answers_soon_with_exit_code_2_and_leaves_nothing_behind(
    what: str, good: str, write: Write, tmp_path: Path
) -> None:
    old, new, words = SPOILED[what]
    path = write(good.replace(old, new, 1))
    began = seconds_of_children()
    done = subprocess.run(
        [sys.executable, "-m", "llmc", "run", "--config", path],
        cwd=tmp_path,
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert seconds_of_children() - began < 3
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith(f"error: {path}:") and words[0] in done.stderr and "Traceback" not in done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ["config.yaml"]
