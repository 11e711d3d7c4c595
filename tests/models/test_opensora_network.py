"""Open-Sora-Plan's network: every tensor and key of its folder is read, and another network is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmc.errors import AdapterError
from llmc.models.opensora_network import IDLE, load_network, network_arguments, rotary_tables
from tests.tiny_pipelines.opensora import CONFIG

WEIGHTS = "diffusion_pytorch_model.safetensors"


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
