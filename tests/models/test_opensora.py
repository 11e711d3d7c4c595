"""Open-Sora-Plan v1.2: its folder, what is refused, and the published sizes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from llmc.config.model import ModelConfig
from llmc.errors import AdapterError
from llmc.models.base import check_adapter
from llmc.models.opensora import OpenSoraPlan, load_decoder, load_text_encoder
from llmc.models.wan import WanI2V

GOLDEN = Path(__file__).parents[1] / "golden" / "configs"


@pytest.mark.parametrize("variant", ["29x480p", "93x480p"])
def test_the_published_network_has_its_published_size(variant: str, tmp_path: Path) -> None:
    shutil.copy(GOLDEN / f"opensora_plan_v1_2_{variant}.json", tmp_path / "config.json")
    (part,) = OpenSoraPlan().skeleton(tmp_path)
    assert sum(parameter.numel() for parameter in part.module.parameters()) == 2_771_907_856
    assert [sum(len(group.linears) for group in part.groups(block)) for _, block in part.blocks] == [10] * 32


def test_the_folder_is_told_from_that_of_another_family(release: Path) -> None:
    check_adapter(OpenSoraPlan, release)
    with pytest.raises(AdapterError, match=r"holds a OpenSoraT2V; .* write `model.type: OpenSoraPlan`"):
        check_adapter(WanI2V, release)


def test_half_a_text_encoder_is_refused(release: Path) -> None:
    folder = release.parent / "mt5-xxl"
    weights = load_file(folder / "model.safetensors")
    save_file({name: weights[name] for name in sorted(weights)[:3]}, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(AdapterError, match=r"lacks encoder\..*of MT5's encoder"):
        load_text_encoder(folder, torch.float32)


def test_code_runs_only_where_that_is_said() -> None:
    model = {"type": "OpenSoraPlan", "path": "93x480p", "code_path": "checkout"}
    with pytest.raises(ValidationError, match="write `trust_remote_code: True` if you trust both"):
        ModelConfig.model_validate(model)
    adapter = ModelConfig.model_validate(model | {"trust_remote_code": True}).adapter()
    assert {key: path.name for key, path in adapter.sources(Path("/release/93x480p")).items()} == {
        "path": "93x480p",
        "text_encoder_path": "mt5-xxl",
        "vae_path": "vae",
        "code_path": "checkout",
    }


def test_a_setting_of_another_family_is_refused() -> None:
    with pytest.raises(ValidationError, match="code_path is a setting of OpenSoraPlan, not of WanI2V; leave it out"):
        ModelConfig.model_validate({"type": "WanI2V", "path": "model", "code_path": "checkout"})


def test_a_folder_without_the_original_code_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="cannot decode: No module named 'opensora'"):
        load_decoder(tmp_path, tmp_path, "cpu")
