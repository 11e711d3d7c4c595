"""What is no LoRA that could be read, whatever the network."""

import json
from pathlib import Path

import pytest
import torch

from llmc.convert.lora_file import read_lora
from llmc.errors import ExportError
from tests.convert.tiny import saved

GOOD = {"proj_out.lora_A.weight": torch.ones(4, 24), "proj_out.lora_B.weight": torch.ones(16, 4)}


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("proj_out.dora_scale", "DoRA"),
        ("proj_out.lora_magnitude_vector.default.weight", "DoRA"),
        ("lora_unet_proj_out.hada_w1_a", "LoHa"),
        ("proj_out.lokr_w1", "LoKr"),
    ],
)
def test_other_kinds_of_adapters_are_called_by_name(tmp_path: Path, key: str, kind: str) -> None:
    with pytest.raises(ExportError, match=f"is a {kind}: it holds {key}.*merge it with the tool that trained it"):
        read_lora(saved(tmp_path, GOOD | {key: torch.ones(4)}))


def test_a_checkpoint_is_no_lora(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"is no LoRA: it holds patch_embedding\.bias"):
        read_lora(saved(tmp_path, {"patch_embedding.bias": torch.ones(24)}))


def test_a_folder_must_hold_exactly_one_file(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"found: none.*exactly one"):
        read_lora(tmp_path)
    path = saved(tmp_path, GOOD)
    assert read_lora(tmp_path).path == path
    saved(tmp_path, GOOD, name="other")
    with pytest.raises(ExportError, match=r"found: lora\.safetensors, other\.safetensors"):
        read_lora(tmp_path)


def test_files_that_an_index_makes_one_are_read_as_one(tmp_path: Path) -> None:
    shards = {
        "one": {"proj_out.lora_A.weight": torch.ones(4, 24)},
        "two": {"proj_out.lora_B.weight": torch.ones(16, 4)},
    }
    owner = {key: f"{name}.safetensors" for name, tensors in shards.items() for key in tensors}
    (tmp_path / "lora.safetensors.index.json").write_text(json.dumps({"weight_map": owner}), encoding="utf-8")
    saved(tmp_path, shards["one"], name="one")
    with pytest.raises(ExportError, match=r"names two\.safetensors, not there"):
        read_lora(tmp_path)
    saved(tmp_path, shards["two"], name="two")
    saved(tmp_path, GOOD, name="another")
    lora = read_lora(tmp_path)
    assert lora.path == tmp_path and [module.name for module in lora.modules] == ["proj_out"] and not lora.problems


def test_only_safetensors_are_read(tmp_path: Path) -> None:
    torch.save(GOOD, tmp_path / "lora.pt")
    with pytest.raises(ExportError, match=r"found: lora\.pt.*save a \.pt, \.pth or \.bin as \.safetensors"):
        read_lora(tmp_path / "lora.pt")
    with pytest.raises(ExportError, match="no such path"):
        read_lora(tmp_path / "nowhere")


def test_a_configuration_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, GOOD, {"lora_adapter_metadata": '{"lora_alpha": "much"}'})
    with pytest.raises(ExportError, match="lora_alpha must be a number"):
        read_lora(path)
