"""Plain rounding that nobody judges takes the weights alone: no pipeline is opened for it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmc.__main__ import main
from tests.end_to_end.small_run import small_config

RTN = ["--set", "quant.video_gen.method=RTN"]
LORA = {"blocks.1.ffn.net.2.lora_A.weight": torch.rand(4, 128), "blocks.1.ffn.net.2.lora_B.weight": torch.rand(64, 4)}


def run(config: Path, *options: str) -> int:
    return main(["run", "--config", str(config), *RTN, *options])


def exported(folder: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {str(file.relative_to(folder)): load_file(file) for file in sorted(folder.rglob("*.safetensors"))}


@pytest.mark.parametrize("how", ["as it is", "in another type", "with a LoRA"])
def test_the_export_is_that_of_a_run_with_the_pipeline(how: str, tmp_path: Path) -> None:
    config = small_config(tmp_path, save={"save_lightx2v": True, "save_fake": True})
    options = {"as it is": [], "in another type": ["--set", "model.torch_dtype=bfloat16"],
               "with a LoRA": ["--set", f"model.lora=[{{path: {tmp_path / 'lora.safetensors'}}}]"]}[how]  # fmt: skip
    save_file(LORA, tmp_path / "lora.safetensors")
    assert run(config, *options) == 0
    assert run(config, *options, "--set", "eval=null", "--set", f"save.save_path={tmp_path / 'alone'}") == 0
    judged, alone = exported(tmp_path / "export"), exported(tmp_path / "alone")
    assert judged.keys() == alone.keys() and len(judged) > 1
    for file, tensors in judged.items():
        if not file.startswith("fake_quant") or "transformer" in file:  # the rest is linked
            assert tensors.keys() == alone[file].keys()
            assert [name for name in tensors if not tensors[name].equal(alone[file][name])] == []


def test_what_else_the_pipeline_holds_is_not_even_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small_config(tmp_path)
    (file,) = (tmp_path / "model" / "text_encoder").glob("*.safetensors")
    tensors = load_file(file)
    tensors["encoder.final_layer_norm.weight"][0] = torch.nan
    save_file(tensors, file, {"format": "pt"})
    assert run(config) == 2
    assert "text_encoder.encoder.final_layer_norm.weight holds NaN or infinity" in capsys.readouterr().err
    assert run(config, "--set", "eval=null") == 0
