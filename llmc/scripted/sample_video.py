"""Generate videos with HunyuanVideo, and quantize its transformer on what it is called with meanwhile.

torchrun --nproc_per_node=8 scripts/sample_video.py --model-base /path/to/HunyuanVideo --prompt calib_prompts.txt \
    --flow-reverse --ulysses-degree 8 --do_quant --quant_type w8a8_dynamic --anti_method m4 \
    --quant_weight_save_folder ./results/quant/safetensors --quant_dump_calib_folder ./results/quant/cache
"""

from __future__ import annotations

import argparse
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from llmc import distributed
from llmc.config.model import ModelConfig
from llmc.convert.encoders import load_encoder
from llmc.errors import ConfigError
from llmc.eval.video import write_video
from llmc.layers.steps import TimestepManager
from llmc.log import log, progress
from llmc.models.base import Sample, Sampling, check_adapter
from llmc.models.hunyuan import HunyuanVideo
from llmc.scripted.dump import CaptureMode, DumperManager
from llmc.scripted.files import safe_torch_load, trusted_file
from llmc.scripted.layers import get_disable_layer_names
from llmc.scripted.quantize import quant_model
from llmc.scripted.ranks import get_rank, get_rank_suffix_file
from llmc.scripted.session import (
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
from llmc.scripted.tiles import spread_tiles
from llmc.scripted.ulysses import spread_tokens
from llmc.steps.device import choose_device
from llmc.steps.source import load_pipeline

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
SIDES = {"540p": 544, "720p": 720}  # the shorter side of a video


def parser() -> argparse.ArgumentParser:
    """The command line; a path that is left out means what lies in --model-base."""
    found = argparse.ArgumentParser(
        description=(__doc__ or "").strip(), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    model = found.add_argument_group("model")
    model.add_argument("--model-base", type=Path, default=Path("ckpts"), help="a HunyuanVideo folder of diffusers")
    model.add_argument("--dit-weight", type=Path, help="another transformer, such as mp_rank_00_model_states.pt")
    model.add_argument("--vae-path", type=Path, help="another autoencoder, in diffusers' names")
    model.add_argument("--text-encoder-path", type=Path, help="another text encoder (Llama)")
    model.add_argument("--text-encoder-2-path", type=Path, help="another second text encoder (CLIP)")
    model.add_argument("--model-resolution", choices=tuple(SIDES), default="540p", help="what it was trained for last")
    video = found.add_argument_group("video")
    video.add_argument("--video-size", type=int, nargs="+", default=[720, 1280], help="height and width")
    video.add_argument("--video-length", type=int, default=129, help="frames, 4k + 1")
    video.add_argument("--infer-steps", type=int, default=50, help="denoising steps")
    video.add_argument("--prompt", help="a prompt, or a file with one on each line, of a mode of at most 0o640")
    video.add_argument("--seed", type=int, help="of the first video of each prompt; default: any")
    video.add_argument("--embedded-cfg-scale", type=float, default=6.0, help="guidance, an input of the model")
    video.add_argument("--flow-reverse", action="store_true", help="denoise from time 1 to 0, as the model was trained")
    video.add_argument("--num-videos", type=int, default=1, help="videos of each prompt")
    video.add_argument("--save-path", type=Path, default=Path("results"), help="folder of the videos")
    video.add_argument("--do_save_video", action="store_true", help="write videos, of the quantized model if it is")
    ranks = found.add_argument_group("ranks")
    ranks.add_argument("--device", default="auto", help="auto, cpu, cuda, npu, or one of several such as cuda:1")
    ranks.add_argument("--ulysses-degree", type=int, default=1, help="ranks that share the tokens of a video")
    ranks.add_argument("--ring-degree", type=int, default=1, help="1: attention goes over heads, not in a ring")
    ranks.add_argument("--vae-parallel", action="store_true", help="share the tiles of a video when it is decoded")
    quant = found.add_argument_group("quantization")
    quant.add_argument("--do_quant", action="store_true", help="quantize the transformer")
    quant.add_argument("--quant_weight_save_folder", type=Path, help="folder of the export")
    quant.add_argument("--quant_dump_calib_folder", type=Path, help="folder of the calibration data, used if there")
    quant.add_argument("--quant_type", choices=tuple(FLOAT), default="w8a8_timestep", help="how inputs are rounded")
    quant.add_argument("--anti_method", choices=tuple(ANTI), help="how channels are scaled first")
    return found


def sample_video(asked: argparse.Namespace) -> None:
    """All that the command line asks for."""
    check(asked)
    prompts = read_prompts(asked.prompt)
    device = choose_device(asked.device, "--device")
    distributed.start(device)
    try:
        pipeline = load(asked, str(device))
        planned = plan(asked, prompts)
        if asked.do_quant:
            quantize_transformer(asked, pipeline, planned)
        if asked.do_save_video:
            save_videos(asked.save_path, pipeline, planned)
    finally:
        distributed.stop()


def check(asked: argparse.Namespace) -> None:
    """Refuse what could not succeed before anything is loaded."""
    if not asked.do_quant and not asked.do_save_video:
        raise ConfigError("neither --do_quant nor --do_save_video is given, so nothing would be left; give one of them")
    if asked.ring_degree != 1:
        raise ConfigError(
            f"--ring-degree is {asked.ring_degree}; attention is shared by heads, so that each rank sees whole rows of "
            "it, as its calibration must; write --ring-degree 1, and give all ranks to --ulysses-degree"
        )
    if len(asked.video_size) > 2:
        raise ConfigError(f"--video-size is {asked.video_size}; give height and width, or one number for both")
    if problems := HunyuanVideo.check_sampling(*size(asked), asked.video_length):
        raise ConfigError("; ".join(problems))
    for name in ("infer_steps", "num_videos", "ulysses_degree"):
        if getattr(asked, name) < 1:
            raise ConfigError(f"--{name.replace('_', '-')} is {getattr(asked, name)}; it is at least 1")
    if asked.seed is not None and not 0 <= asked.seed < 2**32:
        raise ConfigError(f"--seed is {asked.seed}; it is from 0 to {2**32 - 1}")
    for name in ("quant_weight_save_folder", "quant_dump_calib_folder"):
        if asked.do_quant and getattr(asked, name) is None:
            raise ConfigError(f"--do_quant is given, and --{name} is not; name a folder")
    for name in ("save_path", "quant_weight_save_folder", "quant_dump_calib_folder"):
        path = getattr(asked, name)
        if path is not None and path.exists() and not path.is_dir():
            raise ConfigError(f"--{name.replace('save_path', 'save-path')} is {path}, which is a file; name a folder")
    for name in ("model_base", "dit_weight", "vae_path", "text_encoder_path", "text_encoder_2_path"):
        path = getattr(asked, name)
        if path is not None and not path.exists():
            raise ConfigError(f"--{name.replace('_', '-')} is {path}, which is not there; name what exists")
    check_adapter(HunyuanVideo, asked.model_base)


def read_prompts(prompt: str | None) -> list[str]:
    """The prompt, or those of a file, one on each line."""
    if not prompt:
        raise ConfigError("--prompt is missing; give a prompt, or a file with one on each line")
    if not os.path.lexists(prompt) and not prompt.endswith(".txt"):  # no words of a video end so
        return [prompt]
    try:
        lines = trusted_file(prompt).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{prompt} is not UTF-8 at byte {error.start}; save it as UTF-8 text") from None
    if found := [line.strip() for line in lines if line.strip()]:
        return found
    raise ConfigError(f"{prompt} holds no prompt; write one on each line")


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
    rank = get_rank()

    def own(base_name: str, ext: str) -> str:
        return get_rank_suffix_file(base_name, ext, is_distributed=rank >= 0, rank=rank)

    path = asked.quant_dump_calib_folder / own("calib_data", "pth")
    if not all(distributed.gather(path.exists())):  # ranks work together, so that all of them run or none
        dump(pipeline, planned, path, "timestep" if asked.quant_type == "w8a8_timestep" else "args")
    name = asked.quant_type.removesuffix("_fa3")
    save = SaveProcessorConfig(
        output_path=asked.quant_weight_save_folder,
        safetensors_name=own(f"quant_model_weight_{name}", "safetensors"),
        json_name=own(f"quant_model_description_{name}", "json"),
    )
    disabled = get_disable_layer_names(pipeline.transformer, BLOCKS, FLOAT[asked.quant_type])
    processors = processors_of(asked, disabled) | Processors(save=save)
    calls = safe_torch_load(path)
    quant_model(
        pipeline.transformer,
        SessionConfig(
            processor_cfg_map=processors,
            calib_data=calls[:FA3_CALLS] if "fa3" in processors else calls,
            device=str(pipeline.transformer.device),
        ),
    )


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
            frames = generate(pipeline, sample, sampling, "np")
            if distributed.rank() == 0:
                write_video(folder / name, torch.from_numpy((frames * 255).round().astype("uint8")), FPS)
            advance()


def generate(pipeline: Any, sample: Sample, sampling: Sampling, output_type: str) -> Any:
    """Run the pipeline once, and tell what depends on it which step runs."""

    def after_step(_: Any, index: int, timestep: Any, values: dict[str, Any]) -> dict[str, Any]:
        TimestepManager.set_timestep_idx(index + 1)
        return {}

    TimestepManager.set_timestep_idx(0)
    return HunyuanVideo().frames(
        pipeline, sample, sampling,
        height=sampling.height, width=sampling.width, num_inference_steps=sampling.steps,
        generator=torch.Generator("cpu").manual_seed(sampling.seed), output_type=output_type,
        callback_on_step_end=after_step,
    )  # fmt: skip


def size(asked: argparse.Namespace) -> tuple[int, int]:
    """Height and width."""
    return asked.video_size[0], asked.video_size[-1]
