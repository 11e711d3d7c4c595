"""What a run reads is there, whole, and of the right kind, or is named before a model is loaded."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llmc.checks.configuration import config_problems
from llmc.compat.load import load_config
from tests.config.conftest import Load, Write, message

ROOT = Path(__file__).parents[2]


def test_the_embedded_configuration_has_no_problems(load: Load) -> None:
    assert config_problems(load()) == []


def test_a_model_that_is_not_there_is_tied_to_its_line(good: str, write: Write) -> None:
    config = load_config(write(good.replace("../assets/tiny_wan_i2v/", "../assets/tiny/")))
    line = good[: good.index("../assets/tiny_wan_i2v/")].count("\n") + 1
    assert f"config.yaml:{line}: model.path: ../assets/tiny does not exist (looked for " in message(config)


def test_a_folder_without_a_pipeline_is_refused(load: Load, tmp_path: Path) -> None:
    assert "model.path:" in message(load(f"model.path={tmp_path}")) and "model_index.json" in message(
        load(f"model.path={tmp_path}")
    )


def test_a_model_of_another_family_is_refused(load: Load, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "FluxPipeline"}))
    assert "FluxPipeline" in message(load(f"model.path={tmp_path}"))


def unlinked(path: Path) -> None:
    """Gone, be it a file or a folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    ("place", "spoil", "words"),
    [
        ("tokenizer", unlinked, "has no tokenizer/"),
        ("transformer", unlinked, "has no transformer/"),
        ("transformer/config.json", unlinked, "has weights, but no config.json"),
        ("transformer/config.json", cut, "is no JSON"),
        ("vae/diffusion_pytorch_model.safetensors", cut, "it is truncated"),
    ],
)
def test_a_pipeline_folder_that_is_not_whole_is_refused_with_the_file(
    load: Load, tmp_path: Path, place: str, spoil: Callable[[Path], None], words: str
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(load().model.path, folder)
    spoil(folder / place)
    assert "model.path:" in (said := message(load(f"model.path={folder}"))) and words in said


def test_a_shard_that_an_index_names_must_be_there(load: Load, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(load().model.path, folder)
    index = folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "part-2.safetensors"}}')
    assert "part-2.safetensors" in message(load(f"model.path={folder}"))


def test_samples_that_cannot_be_used_are_refused(load: Load, tmp_path: Path) -> None:
    assert "eval.path:" in message(load(f"eval.path={tmp_path}"))
    (tmp_path / "samples.json").write_text('[{"prompt": "a", "image": "gone.png"}]')
    assert "gone.png" in message(load(f"calib.path={tmp_path}"))


def test_samples_of_another_kind_are_refused(load: Load) -> None:
    assert "--set calib.name=t2v: calib.name: it is t2v" in message(load("calib.name=t2v"))


def test_sizes_that_the_family_cannot_make_name_the_nearest(load: Load) -> None:
    found = message(load("calib.target_height=70", "eval.num_frames=16"))
    assert "calib.target_height: it is 70" in found and "64" in found
    assert "eval.num_frames: it is 16" in found and "4k + 1" in found


def test_sizes_that_a_model_has_no_positions_for_are_refused(load: Load) -> None:
    found = message(load("calib.num_frames=4097", "eval.target_width=8208"))  # 1024 positions of 4 frames and 8 pixels
    assert "calib.num_frames: it is 4097, and the positions of this model reach 4093; write at most that" in found
    assert "eval.target_width: it is 8208, and the positions of this model reach 8192" in found
    assert "has 2.7e+12 pixels" in message(
        load("calib.target_height=16384", "calib.target_width=16384", "calib.num_frames=9997")
    )


def test_a_video_needs_its_number_of_frames(good: str, write: Write) -> None:
    text = good.replace("    num_frames: 17\n", "", 1)
    assert text != good and "calib.num_frames: the key is missing; give the frames" in message(load_config(write(text)))


def test_images_have_no_frames_and_are_not_judged_by_motion() -> None:
    flux = ROOT / "configs/quantization/video_gen/flux/smoothquant_w_a.yaml"
    assert [metric.name for metric in load_config(flux).metrics()] == ["psnr", "ssim"]
    found = message(load_config(flux, ["calib.num_frames=17", "eval.metrics=[psnr, vmaf]", "eval.name=t2v"]))
    assert "calib.num_frames: it is 17; Flux makes images: leave it out" in found
    assert "eval.metrics.1: vmaf compares videos, and Flux makes images" in found
    assert "eval.name: it is t2v; Flux is of the kind t2i" in found


def test_a_transformer_of_its_own_must_be_there(load: Load, tmp_path: Path) -> None:
    assert "model.transformer:" in message(load(f"model.transformer={tmp_path}/flux1-dev.safetensors"))


@pytest.mark.parametrize("key", ["transformer", "text_encoder", "lora.0.path"])
@pytest.mark.parametrize("name", ["config.yaml", "empty", "/dev/zero"])
def test_what_can_hold_no_weights_is_refused_by_its_name(key: str, name: str, load: Load, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    path = tmp_path / name
    override = f"model.lora=[{{path: {path}}}]" if "lora" in key else f"model.{key}={path}"
    assert f"model.{key}: {path} holds no .safetensors" in message(load(override))
