"""Wan's autoencoders: their sizes, and the names of their modules in Wan's own releases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import count
from typing import Any

import torch

from llmc.renames import Renames

# of each of the 48 latent channels of Wan2.2's autoencoder, as its release has them; those of 16 are diffusers' default
MEAN = (
    -0.2289, -0.0052, -0.1323, -0.2339, -0.2799, 0.0174, 0.1838, 0.1557, -0.1382, 0.0542, 0.2813, 0.0891, 0.1570,
    -0.0098, 0.0375, -0.1825, -0.2246, -0.1207, -0.0698, 0.5109, 0.2665, -0.2108, -0.2158, 0.2502, -0.2055, -0.0322,
    0.1109, 0.1567, -0.0729, 0.0899, -0.2799, -0.1230, -0.0313, -0.1649, 0.0117, 0.0723, -0.2839, -0.2083, -0.0520,
    0.3748, 0.0152, 0.1957, 0.1433, -0.2944, 0.3573, -0.0548, -0.1681, -0.0667,
)  # fmt: skip
STD = (
    0.4765, 1.0364, 0.4514, 1.1677, 0.5313, 0.4990, 0.4818, 0.5013, 0.8158, 1.0344, 0.5894, 1.0901, 0.6885, 0.6165,
    0.8454, 0.4978, 0.5759, 0.3523, 0.7135, 0.6804, 0.5833, 1.4146, 0.8986, 0.5659, 0.7069, 0.5338, 0.4889, 0.4917,
    0.4069, 0.4999, 0.6866, 0.4093, 0.5709, 0.6065, 0.6415, 0.4944, 0.5726, 1.2042, 0.5458, 1.6887, 0.3971, 1.0600,
    0.3943, 0.5537, 0.5444, 0.4089, 0.7468, 0.7744,
)  # fmt: skip

RESIDUAL = {
    "norm1": "residual.0", "conv1": "residual.2", "norm2": "residual.3", "conv2": "residual.6",
    "conv_shortcut": "shortcut",
}  # fmt: skip
OUTER = {"conv_in": "conv1", "norm_out": "head.0", "conv_out": "head.2"}
MIDDLE = {"resnets.0": 0, "attentions.0": 1, "resnets.1": 2}


def vae_config(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """The config.json of the autoencoder whose release has tensors of these shapes."""
    latents, width = shapes["conv2.weight"][0], shapes["encoder.conv1.weight"][0]
    config: dict[str, Any] = {"_class_name": "AutoencoderKLWan", "base_dim": width, "z_dim": latents}
    if latents != len(MEAN):
        return config
    pixels = shapes["encoder.conv1.weight"][1]  # of a patch: three colours of 2 x 2
    return config | {
        "decoder_base_dim": shapes["decoder.conv1.weight"][0] // 4, "in_channels": pixels, "out_channels": pixels,
        "patch_size": 2, "scale_factor_spatial": 16, "is_residual": True,
        "latents_mean": list(MEAN), "latents_std": list(STD),
    }  # fmt: skip


def vae_original(vae: torch.nn.Module) -> Renames:
    """The modules of an AutoencoderKLWan that have weights, and what Wan's releases call them."""
    table = [("quant_conv", "conv1"), ("post_quant_conv", "conv2")]
    for half, blocks, theirs in (("encoder", "down_blocks", "downsamples"), ("decoder", "up_blocks", "upsamples")):
        network = vae.get_submodule(half)
        table += [(f"{half}.{ours}", f"{half}.{name}") for ours, name in OUTER.items()]
        steps = {f"mid_block.{ours}": f"middle.{index}" for ours, index in MIDDLE.items()}
        steps |= dict(_steps(network.get_submodule(blocks), blocks, theirs))
        for ours, name in steps.items():
            for leaf, module in network.get_submodule(ours).named_modules():
                if next(module.parameters(recurse=False), None) is not None:
                    table.append((f"{half}.{ours}.{leaf}", f"{half}.{name}.{RESIDUAL.get(leaf, leaf)}"))
    return tuple(table)


def _steps(blocks: torch.nn.Module, ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    """Residual blocks and changes of size in running order: diffusers nests some in lists, Wan2.1's release none,
    and Wan2.2's release all."""
    number = count()
    for index, block in blocks.named_children():
        resnets, nested = getattr(block, "resnets", None), hasattr(block, "upsampler") or hasattr(block, "downsampler")
        if resnets is None:
            yield f"{ours}.{index}", f"{theirs}.{next(number)}"
            continue
        modules = dict(block.named_modules())
        inner = [f"resnets.{i}" for i in range(len(resnets))]
        inner += [name for name in ("upsamplers.0", "upsampler", "downsampler") if name in modules]
        for place, name in enumerate(inner):
            yield (
                f"{ours}.{index}.{name}",
                f"{theirs}.{index}.{theirs}.{place}" if nested else f"{theirs}.{next(number)}",
            )
