"""Open-Sora-Plan v1.2: what of its checkpoint is read, what is refused, and the published sizes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from llmc.config.model import ModelConfig
from llmc.errors import AdapterError
from llmc.models.base import check_adapter
from llmc.models.opensora import (
    IDLE,
    OpenSoraPlan,
    load_decoder,
    load_network,
    load_text_encoder,
    network_arguments,
    rotary_tables,
)
from llmc.models.wan import WanI2V
from tests.tiny_pipelines.opensora import CONFIG, save_opensora_plan

GOLDEN = Path(__file__).parents[1] / "golden" / "configs"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("release")
    save_opensora_plan(folder / "93x480p")
    return folder


@pytest.fixture
def release(saved: Path, tmp_path: Path) -> Path:
    shutil.copytree(saved, tmp_path / "release")
    return tmp_path / "release" / "93x480p"


@pytest.mark.parametrize("variant", ["29x480p", "93x480p"])
def test_the_published_network_has_its_published_size(variant: str, tmp_path: Path) -> None:
    shutil.copy(GOLDEN / f"opensora_plan_v1_2_{variant}.json", tmp_path / "config.json")
    (part,) = OpenSoraPlan().skeleton(tmp_path)
    assert sum(parameter.numel() for parameter in part.module.parameters()) == 2_771_907_856
    assert [sum(len(group.linears) for group in part.groups(block)) for _, block in part.blocks] == [10] * 32


def test_every_tensor_of_the_file_becomes_the_one_of_its_name(release: Path) -> None:
    stored = load_file(release / WEIGHTS)
    loaded = load_network(release, torch.float32).state_dict()
    assert stored.keys() == loaded.keys()
    assert all(torch.equal(stored[name], loaded[name]) for name in stored)


def test_a_sharded_checkpoint_is_read_whole(release: Path) -> None:
    weights = load_file(release / WEIGHTS)
    (release / WEIGHTS).unlink()
    for number, names in enumerate((sorted(weights)[::2], sorted(weights)[1::2])):
        save_file({name: weights[name] for name in names}, release / f"shard-{number}.safetensors")
    assert load_network(release, torch.float32).state_dict().keys() == weights.keys()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"proj_out.bias": None}, "it lacks 1: proj_out.bias"),
        ({"extra": torch.ones(1)}, "it has besides 1: extra"),
        ({"proj_out.bias": torch.ones(2)}, r"of another shape are 1: proj_out.bias \(2,\) instead of \(16,\)"),
    ],
    ids=["missing", "unexpected", "reshaped"],
)
def test_a_checkpoint_that_does_not_fit_is_refused(
    release: Path, change: dict[str, torch.Tensor | None], message: str
) -> None:
    weights = load_file(release / WEIGHTS) | change
    save_file({name: tensor for name, tensor in weights.items() if tensor is not None}, release / WEIGHTS)
    with pytest.raises(AdapterError, match=message):
        load_network(release, torch.float32)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_rope": False}, "says use_rope: False; only networks with use_rope: True"),
        ({"patch_size_t": 2}, "patch_size_t: 2"),
        ({"out_channels": 8}, "makes 8 channels of 4"),
        ({"sparse1d": True}, "has sparse1d, which Open-Sora-Plan v1.2 has not"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_another_network_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        network_arguments(CONFIG | change)


def test_a_key_that_is_missing_is_named() -> None:
    with pytest.raises(AdapterError, match=r"lacks norm_type, use_rope;"):
        network_arguments({key: value for key, value in CONFIG.items() if key not in ("use_rope", "norm_type")})
    assert network_arguments({key: value for key, value in CONFIG.items() if key not in IDLE})["num_layers"] == 2


@pytest.mark.parametrize(("frames", "expected"), [(24, 1.5), (8, 0.5), (17, 2)])
def test_scales_that_are_not_given_follow_from_the_size(frames: int, expected: float) -> None:
    unsaid = {f"interpolation_scale_{axis}": None for axis in "thw"}
    found = network_arguments(CONFIG | unsaid | {"sample_size_t": frames})
    assert [found[key] for key in unsaid] == [expected, 2.0, 2.0]


def test_rotary_angles_are_rounded_to_the_type_of_the_network(release: Path) -> None:
    config = load_network(release, torch.bfloat16).config
    (_, _, (cosines, _)), (_, _, columns) = rotary_tables(config, (2, 3, 40), torch.device("cpu"), torch.bfloat16)
    exact = torch.tensor(39 / 10000 ** (2 / 8))  # the second of four frequencies
    assert cosines[39, 1] == exact.bfloat16().cos() != exact.cos().bfloat16()
    assert columns.shape == (1, 240) and columns[0, :41].tolist() == [*range(40), 0]


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
