"""The guide's script: what its command line asks for, in one process or in several that share each video."""

from __future__ import annotations

import argparse
import secrets
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch

from llmc import distributed
from llmc.compat.modelslim.scripted.dump import CaptureMode, DumperManager
from llmc.compat.modelslim.scripted.files import safe_torch_load
from llmc.compat.modelslim.scripted.layers import get_disable_layer_names
from llmc.compat.modelslim.scripted.quantize import quant_model
from llmc.compat.modelslim.scripted.sample_video_options import (
    SIDES,
    check,
    check_dump,
    dump_path,
    own_name,
    read_prompts,
    size,
)
from llmc.compat.modelslim.scripted.session import (
    FA3ProcessorConfig,
    M3ProcessorConfig,
    M4ProcessorConfig,
    M6ProcessorConfig,
    Processors,
    SaveProcessorConfig,
    SessionConfig,
    W8A8DynamicProcessorConfig,
    W8A8TimeStepProcessorConfig,
)
from llmc.compat.modelslim.scripted.tiles import spread_tiles
from llmc.compat.modelslim.scripted.ulysses import spread_tokens
from llmc.config.model import ModelConfig
from llmc.convert.encoders import load_encoder
from llmc.engine.device import choose_device
from llmc.engine.source import load_pipeline
from llmc.errors import CalibrationError
from llmc.eval.video import write_video
from llmc.layers.steps import start_step
from llmc.lock import held
from llmc.log import log
from llmc.models.hunyuan import HunyuanVideo
from llmc.models.samples import Sample, Sampling, Video
from llmc.progress import progress

Planned = tuple[str, Sample, Sampling]  # the name of a video, and how it is made

FPS = 24  # that HunyuanVideo was trained for
ANTI = {
    "m3": Processors(m3=M3ProcessorConfig()),
    "m4": Processors(m4=M4ProcessorConfig()),
    "m6": Processors(m6=M6ProcessorConfig()),
}
BLOCKS = ("*double_blocks*", "*single_blocks*")
FLOAT = {  # what stays float of the blocks
    "w8a8_timestep": ("*img_mod*", "*modulation*", "*fc2*"),
    "w8a8_dynamic": ("*img_mod*", "*modulation*", "*fc2*"),
    "w8a8_dynamic_fa3": ("*img_mod*", "*modulation*"),
}
FA3_CALLS = 20  # attention's ranges are found on so many


def sample_video(asked: argparse.Namespace) -> None:
    """All that the command line asks for."""
    check(asked)
    prompts = read_prompts(asked.prompt)
    device = choose_device(asked.device, "--device")
    with distributed.joined(device), ExitStack() as stack:
        for folder, option in folders(asked).items():
            stack.enter_context(held(folder, option, distributed.rank()))
        if asked.do_quant:
            check_dump(asked)
        pipeline = load(asked, str(device))
        planned = plan(asked, prompts)
        if asked.do_quant:
            quantize_transformer(asked, pipeline, planned)
        if asked.do_save_video:
            save_videos(asked.save_path, pipeline, planned)


def folders(asked: argparse.Namespace) -> dict[Path, str]:
    """The folders that are written to, and the options that name them."""
    found = {asked.save_path: "--save-path"} if asked.do_save_video else {}
    if asked.do_quant:
        found[asked.quant_dump_calib_folder] = "--quant_dump_calib_folder"
        found[asked.quant_weight_save_folder] = "--quant_weight_save_folder"
    return found


def load(asked: argparse.Namespace, device: str) -> Any:
    """The float pipeline, its work spread over the ranks."""
    given = {"transformer": asked.dit_weight, "text_encoder": asked.text_encoder_path}
    own = {name: path for name, path in given.items() if path is not None}
    pipeline = load_pipeline(ModelConfig(type="HunyuanVideo", path=asked.model_base, **own), device)
    for name, path in (("vae", asked.vae_path), ("text_encoder_2", asked.text_encoder_2_path)):
        if path is not None:
            load_encoder(getattr(pipeline, name), path)
            log.info("read the weights of the %s from %s", name, path)
    if not asked.flow_reverse:
        log.warning("without --flow-reverse time runs from 0 to 1; the published model was trained for 1 to 0")
        pipeline.scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config, invert_sigmas=True)
    if min(size(asked)) != SIDES[asked.model_resolution]:
        log.warning("--model-resolution is %s, and videos are of %d x %d", asked.model_resolution, *size(asked))
    if distributed.world() > 1 or asked.ulysses_degree > 1:
        spread_tokens(pipeline.transformer, asked.ulysses_degree)
    if distributed.world() > 1 and asked.vae_parallel:
        spread_tiles(pipeline.vae)
    return pipeline


def plan(asked: argparse.Namespace, prompts: Sequence[str]) -> list[Planned]:
    """Every video of every prompt, each with a seed of its own; the same on all ranks."""
    height, width = size(asked)
    seed = distributed.gather(secrets.randbelow(2**31) if asked.seed is None else asked.seed)[0]
    log.info("the first video has seed %d", seed)
    return [
        (
            f"{number}_seed{seed + video}",
            Sample(prompt=prompt),
            Sampling(
                height=height, width=width, num_frames=asked.video_length, steps=asked.infer_steps,
                guidance_scale=asked.embedded_cfg_scale, seed=seed + video,
            ),
        )
        for number, prompt in enumerate(prompts)
        for video in range(asked.num_videos)
    ]  # fmt: skip


def quantize_transformer(asked: argparse.Namespace, pipeline: Any, planned: Sequence[Planned]) -> None:
    """Note what the float transformer is called with, unless a file of it is there, and quantize it on that."""
    path = dump_path(asked)
    if not all(distributed.gather(path.exists())):  # ranks work together, so that all of them run or none
        dump(pipeline, planned, path, "timestep" if asked.quant_type == "w8a8_timestep" else "args")
    name = asked.quant_type.removesuffix("_fa3")
    save = SaveProcessorConfig(
        output_path=asked.quant_weight_save_folder,
        safetensors_name=own_name(f"quant_model_weight_{name}", "safetensors"),
        json_name=own_name(f"quant_model_description_{name}", "json"),
    )
    disabled = get_disable_layer_names(pipeline.transformer, BLOCKS, FLOAT[asked.quant_type])
    processors = processors_of(asked, disabled) | Processors(save=save)
    calls = safe_torch_load(path)
    session = SessionConfig(
        processor_cfg_map=processors,
        calib_data=calls[:FA3_CALLS] if "fa3" in processors else calls,
        device=str(pipeline.transformer.device),
    )
    try:
        quant_model(pipeline.transformer, session)
    except CalibrationError as error:
        raise CalibrationError(f"{error}\n  calib_data is {path}: without that file it is dumped anew") from error


def processors_of(asked: argparse.Namespace, disabled: list[str]) -> Processors:
    """What the two options of the command line mean."""
    found = Processors()
    if asked.anti_method is not None:
        found |= ANTI[asked.anti_method]
    if asked.quant_type == "w8a8_timestep":
        middle = asked.infer_steps // 2  # the noisier half of the schedule varies most, and is measured as it runs
        return found | Processors(
            w8a8_timestep=W8A8TimeStepProcessorConfig(disable_names=disabled, timestep_sep=middle)
        )
    if asked.quant_type == "w8a8_dynamic_fa3":
        found["fa3"] = FA3ProcessorConfig()
    return found | Processors(w8a8_dynamic=W8A8DynamicProcessorConfig(disable_names=disabled))


def dump(pipeline: Any, planned: Sequence[Planned], path: Path, capture_mode: CaptureMode) -> None:
    """Run the float pipeline up to the latents, and write down what it calls the transformer with."""
    dumper = DumperManager(pipeline.transformer, capture_mode)
    with progress("calibration videos", len(planned)) as advance:
        for _, sample, sampling in planned:
            generate(pipeline, sample, sampling, "latent")
            advance()
    dumper.save(path)


def save_videos(folder: Path, pipeline: Any, planned: Sequence[Planned]) -> None:
    """Generate every video; the first rank writes them."""
    with progress("videos", len(planned)) as advance:
        for name, sample, sampling in planned:
            video = Video.of(torch.from_numpy(generate(pipeline, sample, sampling, "np")), torch.empty(0))
            if not video.is_finite:
                log.warning("%s came out as NaN or infinity, and is black where it did", name)
            if distributed.rank() == 0:
                write_video(folder / name, video.frames, FPS)
            advance()


def generate(pipeline: Any, sample: Sample, sampling: Sampling, output_type: str) -> Any:
    """Run the pipeline once, and tell what depends on it which step runs."""

    def after_step(_: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        start_step(index + 1)
        return {}

    start_step(0)
    return HunyuanVideo().frames(
        pipeline, sample, sampling,
        height=sampling.height, width=sampling.width, num_inference_steps=sampling.steps,
        generator=torch.Generator("cpu").manual_seed(sampling.seed), output_type=output_type,
        callback_on_step_end=after_step,
    )  # fmt: skip
