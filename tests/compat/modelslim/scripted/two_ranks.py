"""What each of two ranks does: the same network and autoencoder alone and spread over the ranks, then the script."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import distributed

from llmc.compat.modelslim.scripted.sample_video import sample_video
from llmc.compat.modelslim.scripted.sample_video_options import parser
from llmc.compat.modelslim.scripted.tiles import spread_tiles
from llmc.compat.modelslim.scripted.ulysses import spread_tokens
from llmc.errors import ConfigError
from llmc.models.base import adapters

TILE = {f"tile_sample_min_{name}": size for name, size in (("height", 32), ("width", 32), ("num_frames", 8))}
STRIDE = {f"tile_sample_stride_{name}": size for name, size in (("height", 24), ("width", 24), ("num_frames", 4))}


def call() -> dict[str, Any]:
    """27 tokens of video and 11 of text, of which 7 are no padding: neither divides among two ranks."""
    noise = torch.Generator().manual_seed(1)
    mask = torch.zeros(1, 11, dtype=torch.bool)
    mask[:, :7] = True
    return {
        "hidden_states": torch.randn(1, 4, 3, 6, 6, generator=noise),
        "timestep": torch.tensor([500.0]),
        "encoder_hidden_states": torch.randn(1, 11, 32, generator=noise),
        "encoder_attention_mask": mask,
        "pooled_projections": torch.randn(1, 32, generator=noise),
        "guidance": torch.tensor([6000.0]),
    }


@torch.no_grad()
def compare(model: Path) -> dict[str, Any]:
    """Outputs spread less outputs alone, and what each rank had to do for them."""
    pipeline = adapters()["HunyuanVideo"]().load(model, "auto", "cpu")
    network, vae = pipeline.transformer, pipeline.vae
    vae.enable_tiling(**TILE, **STRIDE)
    z = torch.randn(1, 4, 4, 8, 7, generator=torch.Generator().manual_seed(2))
    alone = network(**call(), return_dict=False)[0], vae.decode(z, return_dict=False)[0]
    refused = []
    for degree in (1, 3):
        try:
            spread_tokens(network, degree)
        except ConfigError as error:
            refused.append(str(error))
    seen: dict[str, list[int]] = {"tokens": [], "tiles": []}
    spread_tokens(network, 2)
    spread_tiles(vae)
    for block in network.transformer_blocks:
        block.ff.register_forward_pre_hook(lambda _, args: seen["tokens"].append(args[0].shape[1]))
        block.ff_context.register_forward_pre_hook(lambda _, args: seen["tokens"].append(args[0].shape[1]))
    vae.decoder.conv_in.register_forward_hook(lambda *_: seen["tiles"].append(1))
    together = network(**call(), return_dict=False)[0], vae.decode(z, return_dict=False)[0]
    errors = [float((one - other).abs().max()) for one, other in zip(alone, together, strict=True)]
    everyone: list[Any] = [None, None]
    distributed.all_gather_object(everyone, {**seen, "tiles": len(seen["tiles"]), "errors": errors})
    return {"ranks": everyone, "refused": refused}


def main(words: list[str]) -> None:
    """The first word is the file to tell into."""
    told, *rest = words
    asked = parser().parse_args(rest)
    distributed.init_process_group("gloo")
    found = compare(asked.model_base)
    if distributed.get_rank() == 0:
        Path(told).write_text(json.dumps(found), encoding="utf-8")
    sample_video(asked)  # which leaves the group
