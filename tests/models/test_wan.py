"""Wan: who reads which folder, distilled schedules, and checkpoints in the names of the original release."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmc.__main__ import main
from llmc.calib.record import record_calls
from llmc.calib.store import CallStore
from llmc.convert.rename import Renamer
from llmc.errors import AdapterError
from llmc.models.base import adapters, check_adapter
from llmc.models.loaded import LoadedModel
from llmc.models.samples import Sample
from llmc.models.wan import LIGHTX2V, Wan, scheduler_for
from llmc.models.wan_config import to_original
from tests.end_to_end.small_run import small_config
from tests.slices import by_default
from tests.tiny_pipelines import TINY

WAN = [name for name, cls in adapters().items() if issubclass(cls, Wan)]
WEIGHTS = "diffusion_pytorch_model.safetensors"
RTN = {"method": "RTN", "weight": {"bit": 8}, "act": {"bit": 8}}
FAKE = {"save_lightx2v": False, "save_fake": True}


@pytest.mark.parametrize("name", WAN)
def test_a_folder_is_read_by_one_adapter_and_the_others_name_it(name: str, tmp_path: Path) -> None:
    TINY[name][0](tmp_path)
    for other, cls in adapters().items():
        if other == name:
            check_adapter(cls, tmp_path)
        else:
            with pytest.raises(AdapterError, match=f"write `model.type: {name}`"):
                check_adapter(cls, tmp_path)


@pytest.fixture
def pipeline(tmp_path: Path) -> Any:
    TINY["Wan2T2V"][0](tmp_path / "tiny")
    return adapters()["Wan2T2V"]().load(tmp_path / "tiny", "auto", "cpu")


def test_a_distilled_schedule_takes_the_steps_of_its_list_after_the_shift(pipeline: Any) -> None:
    adapter = adapters()["Wan2T2V"]()
    listed = (1000, 750, 500, 250)
    few = TINY["Wan2T2V"][1].model_copy(
        update={"steps": 4, "guidance_scale": 1.0, "shift": 5.0, "denoising_step_list": listed}
    )
    # t = 1000 * 5s / (1 + 4s) with s = 1, 3/4, 1/2, 1/4
    timesteps = [1000.0, 937.5, 2500 / 3, 625.0]
    assert adapter.call_counts(pipeline, few) == {"transformer": 2, "transformer_2": 2}
    own = pipeline.scheduler
    stores = {"transformer": CallStore(), "transformer_2": CallStore()}
    sample = Sample(prompt="a red circle moving left")
    video = record_calls(LoadedModel(adapter, pipeline), adapter.parts(pipeline), [(0, sample, few)], stores, True)[0]
    calls = [call for store in stores.values() for call in store.calls("cpu")]
    assert [call.timestep for call in calls] == pytest.approx(timesteps)
    assert [(call.step, call.branch) for call in calls] == [(step, "cond") for step in range(4)]
    assert pipeline.scheduler is own
    # Euler on the shifted sigmas, down to 0
    x = calls[0].kwargs["hidden_states"].float()
    for call, (now, then) in zip(calls, zip(timesteps, [*timesteps[1:], 0.0], strict=True), strict=True):
        x = x + (then - now) / 1000 * call.output[0].float()
    torch.testing.assert_close(x, video.latents, rtol=1e-5, atol=1e-5)


def test_a_shift_alone_keeps_the_kind_of_scheduler(pipeline: Any) -> None:
    shifted = scheduler_for(pipeline, TINY["Wan2T2V"][1].model_copy(update={"shift": 9.0}))
    assert type(shifted) is type(pipeline.scheduler) and shifted.config.flow_shift == 9.0
    assert scheduler_for(pipeline, TINY["Wan2T2V"][1]) is pipeline.scheduler


def test_the_second_guidance_is_that_of_the_low_noise_expert(pipeline: Any) -> None:
    adapter, sample = adapters()["Wan2T2V"](), Sample(prompt="a red circle moving left")
    how = TINY["Wan2T2V"][1]
    same, plain, other = (
        adapter.generate(pipeline, sample, how.model_copy(update={"guidance_scale_2": scale})).latents
        for scale in (how.guidance_scale, None, 1.5)
    )
    assert torch.equal(same, plain) and not torch.equal(same, other)


def in_original_names(source: Path, folder: Path) -> Path:
    """A transformer as the original release has it: other names, another config.json."""
    tensors = load_file(source / WEIGHTS)
    names = Renamer(LIGHTX2V).forward_all(tensors)
    folder.mkdir(parents=True)
    save_file({names[name]: tensor for name, tensor in tensors.items()}, folder / WEIGHTS)
    config = to_original(json.loads((source / "config.json").read_text()))
    config.pop("_source_config")  # which a release does not have
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
@pytest.mark.parametrize("family", by_default(["WanI2V", "Wan2T2V"], ["WanI2V", "WanFLF2V", "WanVACE", "Wan2T2V"]))
def test_both_layouts_of_the_same_weights_give_the_same_exported_bytes(family: str, dtype: str, tmp_path: Path) -> None:
    config = small_config(tmp_path, 1, family, eval=None, save=FAKE, model={"torch_dtype": dtype})
    assert main(["run", "--config", str(config)]) == 0
    parts = [part.name for part in adapters()[family]().skeleton(tmp_path / "model")]
    options = []
    for part in parts:
        there = in_original_names(tmp_path / "model" / part, tmp_path / "release" / part)
        (tmp_path / "model" / part / WEIGHTS).unlink()  # nothing may come from there any more
        options += ["--set", f"model.{part}={there}"]
    options += ["--set", f"save.save_path={tmp_path / 'again'}", "--set", "save.overwrite=True"]
    assert main(["run", "--config", str(config), *options]) == 0
    for part in parts:
        ours, theirs = (load_file(tmp_path / out / "fake_quant" / part / WEIGHTS) for out in ("export", "again"))
        assert ours.keys() == theirs.keys()
        assert all(ours[name].dtype == theirs[name].dtype and ours[name].equal(theirs[name]) for name in ours)


def test_an_original_checkpoint_must_have_every_tensor_and_no_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config(tmp_path, 1, "WanT2V", eval=None, save={"save_lightx2v": False})
    there = in_original_names(tmp_path / "model" / "transformer", tmp_path / "release")
    tensors = load_file(there / WEIGHTS)
    tensors["blocks.0.self_attn.qq.weight"] = tensors.pop("blocks.0.self_attn.q.weight")
    tensors["head.head.bias"] = torch.zeros(3)
    save_file(tensors, there / WEIGHTS)
    assert main(["run", "--config", str(config), "--set", f"model.transformer={there}"]) == 2
    message = capsys.readouterr().err
    assert "it lacks 1: blocks.0.self_attn.q.weight" in message
    assert "it has besides 1: blocks.0.self_attn.qq.weight" in message
    assert "head.head.bias (3,) instead of (64,)" in message


@pytest.mark.parametrize(
    "change, says",
    [
        ("calib.denoising_step_list=[1000, 500, 750]", "it must fall from at most 1000"),
        ("calib.denoising_step_list=[1000, 750, 500]", "calib.sample_steps: it is 2, but denoising_step_list has 3"),
        ("calib.guidance_scale_2=2.0", "calib.guidance_scale_2: WanT2V does not read it"),
        ("calib.sample_shift=0", "calib.sample_shift"),
        ("model.transformer=/nowhere", "model.transformer: /nowhere does not exist"),
        ("model.transformer_2=.", "has no transformer_2 that it could stand in for"),
        (
            "model.lora=[{path: ., part: transformer_2}]",
            "model.lora.0.part: it is transformer_2; the model has no such",
        ),
    ],
)
def test_what_the_model_cannot_do_is_refused_before_it_is_loaded(
    change: str, says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config(tmp_path, 1, "WanT2V", save={"save_lightx2v": False})
    assert main(["check", str(config), "--set", change]) == 2
    assert says in capsys.readouterr().err


def test_a_lora_may_be_for_one_expert(tmp_path: Path) -> None:
    config = small_config(tmp_path, 1, "Wan2T2V", eval=None, quant={"video_gen": RTN}, save=FAKE)
    weight = load_file(tmp_path / "model" / "transformer" / WEIGHTS)["blocks.0.attn1.to_q.weight"]
    lora = {"transformer.blocks.0.attn1.to_q.diff": torch.full_like(weight, 0.5)}
    save_file(lora, tmp_path / "lora.safetensors")
    assert main(["run", "--config", str(config)]) == 0
    change = f"model.lora=[{{path: {tmp_path}/lora.safetensors, part: transformer_2}}]"
    again = ["--set", change, "--set", f"save.save_path={tmp_path / 'again'}"]
    assert main(["run", "--config", str(config), *again]) == 0
    for part, changed in (("transformer", False), ("transformer_2", True)):
        ours, theirs = (load_file(tmp_path / out / "fake_quant" / part / WEIGHTS) for out in ("export", "again"))
        different = {name for name in ours if not ours[name].equal(theirs[name])}
        assert different == ({"blocks.0.attn1.to_q.weight"} if changed else set())


def test_a_last_image_that_is_missing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = small_config(tmp_path, 1, "WanFLF2V", save={"save_lightx2v": False})
    samples = tmp_path / "samples" / "samples.json"
    samples.write_text(samples.read_text().replace('"last_image": "0.png"', '"last_image": null'))
    assert main(["check", str(config)]) == 2
    assert "has no last_image" in capsys.readouterr().err


def test_ti2v_takes_samples_with_and_without_an_image(tmp_path: Path) -> None:
    config = small_config(tmp_path, 1, "Wan2TI2V", save={"save_lightx2v": False})
    size = ["--set", "calib.target_height=64", "--set", "calib.target_width=64"]
    size += ["--set", "eval.target_height=64", "--set", "eval.target_width=64"]
    for kind in ("t2v", "i2v"):
        assert main(["check", str(config), *size, "--set", f"calib.name={kind}", "--set", f"eval.name={kind}"]) == 0
