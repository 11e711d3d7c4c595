"""The options of `sample_video.py`, and what of them is refused before anything is loaded."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from llmc.compat.modelslim.scripted.files import private_file, safe_torch_load
from llmc.compat.modelslim.scripted.folder import check_folder
from llmc.compat.modelslim.scripted.ranks import get_rank, get_rank_suffix_file
from llmc.compat.modelslim.scripted.session import ANTI_OUTLIER, steps_told
from llmc.errors import ConfigError
from llmc.models.base import check_adapter
from llmc.models.hunyuan import HunyuanVideo

QUANT_TYPES = ("w8a8_timestep", "w8a8_dynamic", "w8a8_dynamic_fa3")
PURPOSE = r"""
Generate videos with HunyuanVideo, and quantize its transformer on what it is called with meanwhile.

torchrun --nproc_per_node=8 scripts/sample_video.py --model-base /path/to/HunyuanVideo --prompt calib_prompts.txt \
    --flow-reverse --ulysses-degree 8 --do_quant --quant_type w8a8_dynamic --anti_method m4 \
    --quant_weight_save_folder ./results/quant/safetensors --quant_dump_calib_folder ./results/quant/cache
"""
SIDES = {"540p": 544, "720p": 720}  # the shorter side of a video


def parser() -> argparse.ArgumentParser:
    """The command line; a path that is left out means what lies in --model-base."""
    found = argparse.ArgumentParser(description=PURPOSE.strip(), formatter_class=argparse.RawDescriptionHelpFormatter)
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
    quant.add_argument("--quant_type", choices=QUANT_TYPES, default=QUANT_TYPES[0], help="how inputs are rounded")
    quant.add_argument("--anti_method", choices=ANTI_OUTLIER, help="how channels are scaled first")
    return found


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
    if asked.do_quant:
        check_folder(asked.quant_weight_save_folder, "--quant_weight_save_folder")
    for name in ("model_base", "dit_weight", "vae_path", "text_encoder_path", "text_encoder_2_path"):
        path = getattr(asked, name)
        if path is not None and not path.exists():
            raise ConfigError(f"--{name.replace('_', '-')} is {path}, which is not there; name what exists")
    check_adapter(HunyuanVideo, asked.model_base)


def check_dump(asked: argparse.Namespace) -> None:
    """Refuse calibration data that are there already, and are not of as many steps as are asked for."""
    path = dump_path(asked)
    if asked.quant_type != "w8a8_timestep" or not path.exists():
        return
    steps = steps_told(safe_torch_load(path, map_location="meta"))  # so that no values are kept
    if steps == asked.infer_steps:
        return
    found = f"are of {steps} steps, and --infer-steps is {asked.infer_steps}" if steps else "do not tell their steps"
    raise ConfigError(
        f"{path} is there and would be used for --quant_type w8a8_timestep, but its calls {found}: remove it, or name "
        "another --quant_dump_calib_folder"
    )


def read_prompts(prompt: str | None) -> list[str]:
    """The prompt, or those of a file, one on each line."""
    if not prompt:
        raise ConfigError("--prompt is missing; give a prompt, or a file with one on each line")
    if not os.path.lexists(prompt) and not prompt.endswith(".txt"):  # no words of a video end so
        return [prompt]
    try:
        lines = private_file(prompt).read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ConfigError(f"{prompt} is not UTF-8 at byte {error.start}; save it as UTF-8 text") from None
    if found := [line.strip() for line in lines if line.strip()]:
        return found
    raise ConfigError(f"{prompt} holds no prompt; write one on each line")


def dump_path(asked: argparse.Namespace) -> Path:
    """Where this process has its calibration data."""
    folder: Path = asked.quant_dump_calib_folder
    return folder / own_name("calib_data", "pth")


def own_name(base_name: str, ext: str) -> str:
    """The name of a file that each process has for itself."""
    rank = get_rank()
    return get_rank_suffix_file(base_name, ext, is_distributed=rank >= 0, rank=rank)


def size(asked: argparse.Namespace) -> tuple[int, int]:
    """Height and width."""
    return asked.video_size[0], asked.video_size[-1]
