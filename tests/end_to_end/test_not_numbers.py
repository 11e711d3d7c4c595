"""NaN and infinity, wherever they come from, end a run, which tells where they are; nothing is exported."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmc.__main__ import main
from tests.end_to_end.small_run import small_config

NAN, HUGE = float("nan"), 3e38  # the second is a number still, but products with it are none
RECIPE = {
    "method": {"name": "SmoothQuant", "alpha": "search"},
    "weight": {"bit": 8, "granularity": "per_channel"},
    "act": {"bit": 8, "granularity": "per_token"},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a configuration and its model, as they should be."""
    folder = tmp_path_factory.mktemp("whole")
    small_config(folder, quant={"video_gen": RECIPE})
    return folder


@pytest.fixture
def config(whole: Path, tmp_path: Path) -> Path:
    """The same, to be spoilt."""
    shutil.copytree(whole, tmp_path / "own")
    text = (tmp_path / "own" / "config.yaml").read_text().replace(str(whole), str(tmp_path / "own"))
    (tmp_path / "own" / "config.yaml").write_text(text)
    return tmp_path / "own" / "config.yaml"


def spoil(config: Path, component: str, name: str, value: float, where: slice = slice(None)) -> None:
    """Put a value into a tensor of the model, or into some of its places."""
    (file,) = (config.parent / "model" / component).glob("*.safetensors")
    tensors = load_file(file)
    tensors[name].view(-1)[where] = value
    save_file(tensors, file, {"format": "pt"})


def refusal(config: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    """What a run says that is refused, and leaves no export."""
    capsys.readouterr()
    assert main(["run", "--config", str(config), *options]) == 2
    assert not (config.parent / "export").exists()
    said = capsys.readouterr().err
    assert said.count("error: ") == 1
    return said.partition("error: ")[2]


@pytest.mark.parametrize("value", [NAN, float("-inf")])
@pytest.mark.parametrize(
    ("component", "name"),
    [
        ("transformer", "blocks.1.norm2.weight"),
        ("transformer", "blocks.0.attn2.to_out.0.bias"),
        ("transformer", "patch_embedding.weight"),
        ("text_encoder", "encoder.block.1.layer.0.SelfAttention.o.weight"),
    ],
)
def test_a_tensor_of_the_model_that_holds_no_numbers_is_named(
    component: str, name: str, value: float, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(config, component, name, value, slice(-1, None))
    assert refusal(config, capsys).startswith(f"{component}.{name} holds NaN or infinity, in 1 of ")


@pytest.mark.parametrize("streamed", ["False", "True"])
@pytest.mark.parametrize(
    ("component", "name", "place"),
    [
        ("transformer", "blocks.1.norm2.weight", "what transformer.blocks.1.attn2.to_q reads"),
        ("transformer", "proj_out.weight", "what transformer gives"),
        ("text_encoder", "encoder.final_layer_norm.weight", "encoder_hidden_states, which transformer is called with,"),
    ],
)
def test_an_act_that_is_no_number_is_told_with_its_place_and_its_first_call(
    component: str, name: str, place: str, streamed: str, config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil(config, component, name, HUGE)
    said = refusal(config, capsys, "--set", f"calib.streamed={streamed}")
    assert said.startswith(f"{place} holds NaN or infinity, at first in call 0 (sample 0, step 0, cond); ")


def test_a_lora_that_holds_no_numbers_is_refused_with_its_file_and_tensors(
    config: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lora = {"transformer.blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 64),
            "transformer.blocks.0.attn1.to_q.lora_B.weight": torch.full((64, 2), NAN)}  # fmt: skip
    save_file(lora, config.parent / "lora.safetensors")
    said = refusal(config, capsys, "--set", f"model.lora=[{{path: {config.parent / 'lora.safetensors'}}}]")
    found = "transformer.blocks.0.attn1.to_q.lora_B.weight"
    assert said.startswith(f"{config.parent / 'lora.safetensors'} holds NaN or infinity: {found}; ")


def test_a_number_of_the_configuration_must_be_one(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(config, capsys, "--set", "calib.guidance_scale=.nan")
    assert "calib.guidance_scale: it is nan; a finite number is needed" in said


def test_a_float_model_that_makes_no_picture_judges_nothing(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spoil(config, "vae", "decoder.conv_out.weight", HUGE)
    assert main(["run", "--config", str(config)]) == 2
    assert "the float model gives NaN or infinity for sample 0 of `eval`" in capsys.readouterr().err


def test_what_a_run_writes_as_json_is_json(config: Path) -> None:
    assert main(["run", "--config", str(config)]) == 0

    def no_number(word: str) -> Any:
        raise AssertionError(f"{word} is no JSON")

    files = sorted(config.parent.rglob("*.json"))
    assert {"config.json", "results.json", "llmc_manifest.json"} <= {file.name for file in files}
    for file in files:
        json.loads(file.read_text(encoding="utf-8"), parse_constant=no_number)
