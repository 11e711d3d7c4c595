"""Wan in the layout of its own releases: the same weights as those of a diffusers pipeline, and the same exports."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmc.__main__ import main
from llmc.compat.load import load_config
from llmc.convert.encoders import to_release
from llmc.convert.names import Known, Names
from llmc.engine.source import load_pipeline
from llmc.errors import AdapterError
from llmc.models.base import adapters, pipeline_index
from llmc.models.wan_config import to_original
from llmc.models.wan_release import BESIDE, EXPERTS, TOKENIZER, shapes_of
from llmc.models.wan_vae import MEAN, STD, vae_config, vae_original
from tests.end_to_end.small_run import small_config
from tests.slices import by_default

WEIGHTS = "diffusion_pytorch_model.safetensors"
FAMILIES = ["WanT2V", "WanI2V", "WanFLF2V", "WanVACE", "Wan2T2V", "Wan2I2V", "Wan2TI2V"]
DIFFERENT = ["WanI2V", "Wan2T2V", "Wan2TI2V"]  # images, two experts, another autoencoder


def with_released_sizes(family: str, folder: Path) -> Any:
    """The tiny pipeline, with an autoencoder and an image encoder of which shapes tell all, as in the releases."""
    from diffusers import AutoencoderKLWan
    from transformers import CLIPVisionConfig, CLIPVisionModel

    pipeline = adapters()[family]().load(folder, "float32", "cpu")
    torch.manual_seed(0)
    wide = {"z_dim": 48, "in_channels": 12, "out_channels": 12, "is_residual": True, "patch_size": 2,
            "latents_mean": list(MEAN), "latents_std": list(STD), "scale_factor_spatial": 16,
            "decoder_base_dim": 8}  # fmt: skip
    pipeline.vae = AutoencoderKLWan(base_dim=8, **wide if family == "Wan2TI2V" else {}).eval()
    if getattr(pipeline, "image_encoder", None) is not None:
        vision = CLIPVisionConfig(
            hidden_size=32, projection_dim=32, num_hidden_layers=3, num_attention_heads=1, image_size=32,
            intermediate_size=64, patch_size=8, hidden_act="gelu",
        )  # fmt: skip
        pipeline.image_encoder = CLIPVisionModel(vision).eval()
    pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, flow_shift=5.0)
    pipeline.save_pretrained(folder)
    return pipeline


def save_release(pipeline: Any, diffusers: Path, folder: Path) -> None:
    """The networks of a pipeline as Wan's releases lay them."""
    networks = [name for name in EXPERTS if getattr(pipeline, name, None) is not None]
    for name in networks:
        there = folder / EXPERTS[name] if len(networks) > 1 else folder
        there.mkdir(parents=True, exist_ok=True)
        naming = Names(adapters()["WanI2V"].original(getattr(pipeline, name)))
        tensors = {key: Known(tensor) for key, tensor in load_file(diffusers / name / WEIGHTS).items()}
        save_file(
            {key: tensor.make().contiguous() for key, tensor in naming.to_original(tensors).items()}, there / WEIGHTS
        )
        config = to_original(json.loads((diffusers / name / "config.json").read_text()))
        config.pop("_source_config")  # which a release does not have
        (there / "config.json").write_text(json.dumps(config))
    for component, (pattern, class_name) in BESIDE.items():
        if (module := getattr(pipeline, component, None)) is None:
            continue
        if component == "vae":
            original = Names(vae_original(module)).to_original({k: Known(v) for k, v in module.state_dict().items()})
        else:
            original = to_release(
                class_name, {name: Known(value.detach()) for name, value in module.named_parameters()}
            )
        file = pattern.replace("*", "bf16").replace("?", "2" if pipeline.vae.config.is_residual else "1")
        torch.save({name: tensor.make().clone() for name, tensor in original.items()}, folder / file)
    pipeline.tokenizer.save_pretrained(folder / TOKENIZER)


@pytest.mark.parametrize("family", by_default(DIFFERENT, FAMILIES))
def test_a_release_gives_the_bytes_of_the_pipeline_of_the_same_weights(
    family: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By plain rounding: what methods observe may differ in its last bits with where a tensor lies in memory."""
    config = small_config(tmp_path, 1, family, eval=None)
    pipeline = with_released_sizes(family, tmp_path / "model")
    save_release(pipeline, tmp_path / "model", tmp_path / "release")
    rounding = ["--set", "quant.video_gen.method=RTN", "--set", "quant.video_gen.special={}"]
    assert main(["run", "--config", str(config), *rounding]) == 0
    other = ["--set", f"model.path={tmp_path / 'release'}", "--set", f"save.save_path={tmp_path / 'again'}"]
    assert main(["check", str(config), "--explain", *other]) == 0
    assert main(["run", "--config", str(config), *rounding, *other]) == 0, capsys.readouterr().err
    ours, theirs = (sorted((tmp_path / out).rglob("*.safetensors")) for out in ("export", "again"))
    assert [file.name for file in ours] == [file.name for file in theirs] != []
    for one, two in zip(ours, theirs, strict=True):
        first, second = load_file(one), load_file(two)
        assert first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)


@pytest.mark.parametrize("family", by_default(DIFFERENT, FAMILIES))
def test_every_component_of_a_release_has_the_weights_of_the_pipeline(family: str, tmp_path: Path) -> None:
    config = small_config(tmp_path, 1, family, eval=None)
    save_release(with_released_sizes(family, tmp_path / "model"), tmp_path / "model", tmp_path / "release")
    ours = load_pipeline(load_config(config, []).model, "cpu")
    theirs = load_pipeline(load_config(config, [f"model.path={tmp_path / 'release'}"]).model, "cpu")
    assert type(ours) is type(theirs)
    modules = {name: part for name, part in ours.components.items() if isinstance(part, torch.nn.Module)}
    assert {"transformer", "vae", "text_encoder"} <= modules.keys()
    for name, module in modules.items():
        wanted, found = module.state_dict(), getattr(theirs, name).state_dict()
        assert wanted.keys() == found.keys() and all(wanted[key].equal(found[key]) for key in wanted), name


def test_the_configurations_of_a_release_are_those_of_its_pipeline(tmp_path: Path) -> None:
    small_config(tmp_path, 1, "WanI2V")
    pipeline = with_released_sizes("WanI2V", tmp_path / "model")
    save_release(pipeline, tmp_path / "model", tmp_path / "release")
    index, usual = pipeline_index(tmp_path / "release"), pipeline_index(tmp_path / "model")
    assert index.class_name == usual.class_name
    told = {"text_encoder": ("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "vocab_size"),
            "image_encoder": ("hidden_size", "intermediate_size", "num_hidden_layers", "image_size", "patch_size"),
            "transformer": ("num_layers", "num_attention_heads", "attention_head_dim", "ffn_dim", "image_dim",
                            "added_kv_proj_dim", "in_channels", "text_dim", "freq_dim")}  # fmt: skip
    for component, keys in told.items():
        assert index.components[component] == usual.components[component]
        found, wanted = index.config(component), usual.config(component)
        assert {key: found[key] for key in keys} == {key: wanted[key] for key in keys}


@pytest.mark.parametrize("name", ["models_t5_umt5-xxl-enc-bf16.pth", "google"])
def test_what_a_release_lacks_is_named(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small_config(tmp_path, 1, "WanT2V", eval=None)
    save_release(with_released_sizes("WanT2V", tmp_path / "model"), tmp_path / "model", tmp_path / "release")
    (tmp_path / "release" / name).rename(tmp_path / "elsewhere")
    assert main(["check", str(config), "--set", f"model.path={tmp_path / 'release'}"]) == 2
    message = capsys.readouterr().err
    assert "is a release of Wan, but holds no" in message and "download" in message


@pytest.mark.parametrize("target", ["fake_quant", "diffusers"])
def test_what_writes_a_whole_pipeline_is_refused(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config(tmp_path, 1, "WanT2V", eval=None, save={"save_lightx2v": False, target: {}})
    save_release(with_released_sizes("WanT2V", tmp_path / "model"), tmp_path / "model", tmp_path / "release")
    assert main(["check", str(config)]) == 0
    assert main(["check", str(config), "--set", f"model.path={tmp_path / 'release'}"]) == 2
    message = capsys.readouterr().err
    assert f"save.{target}: " in message and "it writes a whole pipeline of diffusers" in message


@torch.no_grad()
def test_the_names_of_the_autoencoder_are_those_that_diffusers_reads() -> None:
    from diffusers import AutoencoderKLWan
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    with torch.device("meta"):
        vae = AutoencoderKLWan()
    ours = {name: Known(tensor) for name, tensor in vae.state_dict().items()}
    original = Names(vae_original(vae)).to_original(ours)
    assert convert_wan_vae_to_diffusers(dict(original)) == ours
    assert vae_config({name: tensor.shape for name, tensor in original.items()}).items() <= {
        **vae.config, "_class_name": "AutoencoderKLWan"
    }.items()  # fmt: skip


def test_a_release_with_a_file_that_is_cut_off_is_refused_by_its_name(tmp_path: Path) -> None:
    for file in ("Wan2.1_VAE.pth", WEIGHTS):
        (tmp_path / file).write_bytes(b"PK")
    for path in (tmp_path / "Wan2.1_VAE.pth", tmp_path):
        with pytest.raises(AdapterError, match="copy or download it again"):
            shapes_of(path)


def test_what_tells_a_size_and_is_missing_is_named_with_its_file(tmp_path: Path) -> None:
    small_config(tmp_path, 1, "WanI2V")
    release = tmp_path / "release"
    save_release(with_released_sizes("WanI2V", tmp_path / "model"), tmp_path / "model", release)
    index = pipeline_index(release)
    for component in ("text_encoder", "image_encoder", "vae"):
        file = index.files[component]
        torch.save({"strange.weight": torch.ones(2)}, file)
        with pytest.raises(AdapterError, match=rf"{file.name} has no \S+, .* \(found: strange\.weight\)"):
            index.config(component)
        torch.save([torch.ones(2)], file)
        with pytest.raises(AdapterError, match=rf"{file.name} holds more than names with tensors"):
            index.config(component)
    config = json.loads((release / "config.json").read_text())
    (release / "config.json").write_text(json.dumps({key: config[key] for key in config if key != "dim"}))
    with pytest.raises(AdapterError, match=r"config\.json does not say dim; a release of Wan does"):
        index.config("transformer")
