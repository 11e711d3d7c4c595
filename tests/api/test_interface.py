"""What a notebook may say in place of a configuration, and what it is told where that cannot be."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import llmc
from llmc.__main__ import main
from llmc.api.recipe import in_folder, quantized_document, targets_section
from tests.end_to_end.small_run import small_config
from tests.tiny_pipelines import TINY, save_samples

W8A8 = {"weight": {"bit": 8, "granularity": "per_channel"}, "act": {"bit": 8, "granularity": "per_token"}}
RECIPE = {"method": {"name": "SmoothQuant", "alpha": 0.5, "gate": False}, **W8A8}
SMALL = {"height": 32, "width": 32, "num_frames": 5, "steps": 2, "guidance_scale": 2.0}
FILE = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline and samples."""
    folder = tmp_path_factory.mktemp("notebook")
    TINY["WanI2V"][0](folder / "model")
    save_samples(folder / "samples", 1)
    return folder


@pytest.fixture(scope="module")
def result(folder: Path) -> llmc.Result:
    """A loaded pipeline, quantized for LightX2V."""
    from diffusers import WanImageToVideoPipeline

    pipeline = WanImageToVideoPipeline.from_pretrained(folder / "model")
    return llmc.quantize(
        llmc.load(pipeline), RECIPE, folder / "samples", SMALL | {"seed": 7}, ["lightx2v"], folder / "run"
    )


def test_importing_llmc_is_free() -> None:
    code = "import sys, llmc; print([name for name in ('torch', 'pydantic', 'yaml') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert {"load", "quantize", "verify", "recipes"} <= set(dir(llmc))


def test_a_loaded_pipeline_gives_the_bytes_of_a_run(result: llmc.Result, tmp_path: Path) -> None:
    assert main(["run", "--config", str(small_config(tmp_path, eval=None))]) == 0
    written = result.export("lightx2v", tmp_path / "own")
    one, two = load_file(written / FILE), load_file(tmp_path / "export" / FILE)
    assert one.keys() == two.keys() and all(one[name].equal(two[name]) for name in one)
    assert llmc.verify(written, against=result).passed
    assert llmc.verify(written, against=result.run_dir).passed


def test_judging_leaves_the_pipeline_quantized_and_the_figures_typed(result: llmc.Result) -> None:
    scores = result.judge(metrics=["psnr"], seeds=[1, 2])
    assert list(scores.figures) == ["float", "baseline", "fake_quant"]
    assert 0 < scores.figures["fake_quant"]["teacher_forced_error"] < 0.01
    assert [len(files) for files in scores.videos.values()] == [2, 2, 2] and scores.report.is_file()
    assert all(file.is_file() for file in scores.videos["fake_quant"])
    modes = {module.mode for module in result.pipeline.transformer.modules() if hasattr(module, "mode")}
    assert modes == {"quantized"}
    assert len(result.layers) == 24 and all(layer.error is not None for layer in result.layers)


def test_a_target_that_cannot_store_what_is_there_says_why(result: llmc.Result, tmp_path: Path) -> None:
    with pytest.raises(
        llmc.LlmcError, match=r"(?s)comfyui cannot store .* scale that the input .*targets=\['comfyui'\]"
    ):
        result.export("comfyui", tmp_path)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_pipeline_is_not_quantized_twice(result: llmc.Result, folder: Path, tmp_path: Path) -> None:
    model = llmc.load(result.pipeline, folder=folder / "model")
    with pytest.raises(llmc.LlmcError, match="quantized already"):
        llmc.quantize(model, RECIPE, folder / "samples", SMALL, run_dir=tmp_path)


def config(folder: Path, recipe: Any, samples: Any = None, sampling: Any = None, targets: Any = None) -> Any:
    document = quantized_document(llmc.load(folder / "model"), recipe, samples, sampling, targets)
    return in_folder(document, samples, folder / "said")


def test_a_recipe_is_a_dictionary_of_any_level_a_name_or_a_file(folder: Path, tmp_path: Path) -> None:
    own = config(folder, RECIPE, folder / "samples", SMALL)
    for whole in ({"video_gen": RECIPE}, {"quant": {"video_gen": RECIPE}}):
        assert config(folder, whole, folder / "samples", SMALL).quant == own.quant
    path = small_config(tmp_path)
    assert config(folder, path).quant == own.quant and config(folder, path).eval is not None
    shipped = config(folder, "wan_i2v_tiny/smoothquant_w_a")
    assert shipped.model.path == folder / "model" and shipped.calib.sample_steps == 20
    assert config(folder, "wan_i2v_tiny/smoothquant_w_a", None, {"steps": 3}).calib.sample_steps == 3


def test_targets_have_settings(folder: Path) -> None:
    (exporter, where), = config(folder, RECIPE, folder / "samples", SMALL, {"comfyui": {}}).save.targets()  # fmt: skip
    assert exporter.name == "comfyui" and where.is_relative_to(folder / "said")
    with pytest.raises(llmc.LlmcError, match="there is no target lightx3v; did you mean lightx2v"):
        targets_section(["lightx3v"])


def test_prompts_and_pictures_are_samples(folder: Path) -> None:
    picture = next((folder / "samples").glob("*.png"))
    said = config(folder, RECIPE, [{"prompt": "a cat", "image": picture}, {"prompt": "b", "image": picture}], SMALL)
    samples = said.calib_samples(said.model.adapter())
    assert [sample.prompt for sample in samples] == ["a cat", "b"]
    assert samples[0].image.read_bytes() == picture.read_bytes()
    missing = {"prompt": "a", "image": "no.png"}
    for samples, why in ([], "empty list"), ([{"promt": "a"}], "is no sample"), ([missing], "no.png"):
        with pytest.raises(llmc.LlmcError, match=why):
            config(folder, RECIPE, samples, SMALL)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda folder: llmc.load("nowhere"), "nowhere"),
        (lambda folder: llmc.load(3), "found int"),
        (lambda folder: config(folder, "wan_i2v_tiny/smoothquant"), "such as wan_i2v_tiny/smoothquant_w_a"),
        (lambda folder: config(folder, {"metod": "RTN"}), "did you mean method"),
        (lambda folder: config(folder, RECIPE, folder / "samples", {"hight": 3}), "sampling has hight"),
        (lambda folder: config(folder, RECIPE), "calib: the key is missing"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_said(call: Any, says: str, folder: Path) -> None:
    with pytest.raises(llmc.LlmcError, match=says):
        call(folder)
