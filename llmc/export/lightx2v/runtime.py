"""What LightX2V is started with: the runtime JSON, and the part of a network's config.json that it reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmc.export.folding import multipliers
from llmc.export.lightx2v.schemes import SCHEMES, Runtime
from llmc.export.part import FinishedPart

# of a native config.json. It overrides the runtime JSON, so nothing else belongs there
CONFIG_KEYS = frozenset({
    "dim", "num_heads", "num_layers", "in_dim", "out_dim", "freq_dim", "ffn_dim", "text_len", "eps", "patch_size",
    "vace_layers",
})  # fmt: skip


@dataclass(frozen=True)
class Expert:
    """One of two networks that share a noise schedule."""

    folder: str
    key: str


EXPERTS: Mapping[str, Expert] = {  # part -> where LightX2V looks for it
    "transformer": Expert("high_noise_model", "high_noise_quantized_ckpt"),
    "transformer_2": Expert("low_noise_model", "low_noise_quantized_ckpt"),
}


def runtime_config(parts: Sequence[FinishedPart], folders: Mapping[str, Path], scheme: Runtime) -> dict[str, Any]:
    """Everything that LightX2V reads without a default: the sampling that the model was judged with, and the networks.

    Encoders bring keys of their own beside these (`t5_quantized`, ...).
    """
    networks = [part for part in parts if part.name in EXPERTS]
    return sampling_keys(networks) | network_keys(networks, folders, scheme)


def sampling_keys(networks: Sequence[FinishedPart]) -> dict[str, Any]:
    """How videos are made."""
    sampling = networks[0].sampling
    guidance = sampling["guidance_scale"]
    keys = {
        "infer_steps": sampling["steps"],
        "target_video_length": sampling["num_frames"],
        "target_height": sampling["height"],
        "target_width": sampling["width"],
        "text_len": 512,
        "sample_guide_scale": guidance,
        "sample_shift": sampling["shift"],
        "enable_cfg": guidance > 1,
        "seed": sampling["seed"],
        # what runs everywhere; flash_attn3, sage_attn2 and others are faster where they are installed
        "self_attn_1_type": "torch_sdpa",
        "cross_attn_1_type": "torch_sdpa",
        "cross_attn_2_type": "torch_sdpa",
    }
    steps = sampling.get("denoising_step_list")
    if steps:  # of a distilled model
        keys["denoising_step_list"] = list(steps)
    if len(networks) == 1:
        return keys
    low = sampling.get("guidance_scale_2")
    keys |= {
        "sample_guide_scale": [guidance, guidance if low is None else low],
        "boundary": sampling["boundary"],
    }
    if steps:
        keys["boundary_step_index"] = steps_above(sampling["boundary"], steps, sampling["shift"])
    return keys


def steps_above(boundary: float, steps: Sequence[int], shift: float) -> int:
    """How many steps of a thousand, once they are shifted, belong to the expert of high noise; in float32, in which
    schedulers compute it: a step can lie at the boundary itself."""
    noise = torch.tensor(steps, dtype=torch.float32) / 1000
    return int((shift * noise / (1 + (shift - 1) * noise) * 1000 >= boundary * 1000).sum())


def schedule_problem(sampling: Mapping[str, Any]) -> str | None:
    """Why LightX2V cannot run two experts on that schedule; None if it can."""
    steps, boundary = sampling.get("denoising_step_list"), sampling.get("boundary")
    if not steps or boundary is None or steps_above(boundary, steps, sampling["shift"]) < len(steps):
        return None
    return (
        f"all of the steps {', '.join(map(str, steps))} are above the boundary {boundary:g} at shift "
        f"{sampling['shift']:g}: LightX2V reads the noise of the first step of the other expert, and there is none; "
        "give denoising_step_list a step below the boundary, or a smaller sample_shift"
    )


def network_keys(networks: Sequence[FinishedPart], folders: Mapping[str, Path], scheme: Runtime) -> dict[str, Any]:
    """Where the quantized networks lie, and how they are read."""
    keys: dict[str, Any] = {"dit_quantized": True, "dit_quant_scheme": scheme}
    if len(networks) == 1:
        keys["dit_quantized_ckpt"] = str(folders[networks[0].name].resolve())
    else:  # dit_quantized_ckpt would give both experts the same file
        keys |= {EXPERTS[part.name].key: str(folders[part.name].resolve()) for part in networks}
    if any(norm_without_weight(part) for part in networks):
        keys["quant_method"] = "advanced_ptq"
    if reads_images_without_encoder(networks[0]):
        keys["use_image_encoder"] = False
    if SCHEMES[scheme].layouts == ("blocks",):
        keys |= {"lazy_load": True, "cpu_offload": True, "offload_granularity": "block"}
    return keys


def norm_without_weight(part: FinishedPart) -> bool:
    """Whether smoothing is left to the runtime: a norm that time modulates has no weight to fold it into."""
    own = part.module.state_dict(keep_vars=True).keys()
    return any(f"{norm}.weight" not in own for norm in multipliers(part))


def reads_images_without_encoder(part: FinishedPart) -> bool:
    """An image model that is given its first frame in the latents alone."""
    config: Mapping[str, Any] = part.module.config  # type: ignore[assignment]
    return config.get("image_dim") is None and config.get("in_channels", 0) > config.get("out_channels", 0)
