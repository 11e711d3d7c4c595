import json
from pathlib import Path
from typing import Any

import pytest

from llmc.models.wan_config import SOURCE, to_diffusers, to_original
from tests.convert.tiny import KINDS, tiny_wan

I2V_14B = {
    "_class_name": "WanModel",
    "_diffusers_version": "0.30.0",
    "dim": 5120,
    "eps": 1e-06,
    "ffn_dim": 13824,
    "freq_dim": 256,
    "in_dim": 36,
    "model_type": "i2v",
    "num_heads": 40,
    "num_layers": 40,
    "out_dim": 16,
    "text_len": 512,
}
IMAGE = {"img_emb.proj.0.weight": (1280,)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_diffusers_config_has_the_keys_that_lightx2v_reads_and_comes_back_exactly(
    kind: str, wan_folders: dict[str, Path]
) -> None:
    config: dict[str, Any] = json.loads((wan_folders[kind] / "config.json").read_text())
    original = to_original(config)
    sizes = {"dim": 24, "num_heads": 2, "num_layers": 2, "out_dim": 4, "ffn_dim": 16, "freq_dim": 8, "text_len": 512}
    assert sizes.items() <= original.items()
    assert original["model_type"] == kind
    assert original["in_dim"] == config["in_channels"]
    assert original["quant_method"] == "advanced_ptq"
    assert not {"num_attention_heads", "in_channels", "image_dim", "vace_in_channels"} & original.keys()
    assert to_diffusers(original, {}) == config


def test_a_config_of_the_original_release_comes_back_exactly() -> None:
    assert to_original(to_diffusers(I2V_14B, IMAGE)) == I2V_14B


@pytest.mark.parametrize(("shapes", "image_dim"), [(IMAGE, 1280), ({}, None)], ids=["Wan2.1 embeds", "Wan2.2 does not"])
def test_whether_images_are_embedded_is_read_off_the_tensors(shapes: dict[str, Any], image_dim: int | None) -> None:
    config = to_diffusers(I2V_14B, shapes)
    assert (config["image_dim"], config["added_kv_proj_dim"]) == (image_dim, 5120 if image_dim else None)


def test_diffusers_builds_the_same_network_from_a_translated_config() -> None:
    model = tiny_wan("flf2v")
    original = {key: value for key, value in to_original(dict(model.config)).items() if key != SOURCE}
    shapes = {"img_emb.proj.0.weight": (10,), "img_emb.emb_pos": (1, 514, 10)}
    again = type(model).from_config(to_diffusers(original, shapes))
    assert {name: t.shape for name, t in again.state_dict().items()} == {
        name: t.shape for name, t in model.state_dict().items()
    }


def test_the_48_latent_channels_of_wan22_5b_are_recognised() -> None:
    config = {"num_attention_heads": 24, "attention_head_dim": 128, "in_channels": 48, "out_channels": 48}
    assert to_original(config)["model_type"] == "ti2v"


def test_a_config_that_is_translated_already_or_has_no_sizes_stays_as_it_is() -> None:
    assert to_original(I2V_14B) == I2V_14B
    assert to_diffusers({"quant_method": "x"}, {}) == {"quant_method": "x"}
