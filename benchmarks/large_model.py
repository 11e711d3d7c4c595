"""A Wan pipeline of any size on disk: a transformer of random weights beside the small parts of the embedded model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from llmc.errors import AdapterError
from llmc.files.json_text import read_object
from llmc.models.networks import empty_network

EMBEDDED = Path(__file__).parents[1] / "assets" / "tiny_wan_i2v"
BESIDE = ("scheduler", "text_encoder", "tokenizer", "vae")
STEM = "diffusion_pytorch_model"
POOL = 4_194_301  # values, a prime: so no two rows of a matrix are alike, though they are drawn only once


def save_large_model(folder: Path, dim: int, ffn: int, blocks: int) -> None:
    """A text-to-video pipeline; one shard for each block, so that no more than that is in memory."""
    for component in BESIDE:
        shutil.copytree(EMBEDDED / component, folder / component)
    embedded = json.loads((EMBEDDED / "model_index.json").read_text())
    there = {*BESIDE, "transformer"}
    index = {name: value for name, value in embedded.items() if name in there or not isinstance(value, list)}
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "WanPipeline"}))
    own = {"num_attention_heads": max(1, dim // 128), "attention_head_dim": min(dim, 128), "ffn_dim": ffn,
           "num_layers": blocks, "in_channels": 16, "image_dim": None, "added_kv_proj_dim": None}  # fmt: skip
    config = {**read_object(EMBEDDED / "transformer" / "config.json", AdapterError), **own}
    (folder / "transformer").mkdir()
    (folder / "transformer" / "config.json").write_text(json.dumps(config))
    write_random_shards(folder / "transformer", empty_network(config).state_dict())


def write_random_shards(folder: Path, tensors: Mapping[str, torch.Tensor]) -> None:
    """Values of the size that a trained network has them in: norms about one, products of a linear about its input."""
    shards: dict[str, list[str]] = {}
    for name in tensors:
        shards.setdefault(".".join(name.split(".")[:2]) if name.startswith("blocks.") else "", []).append(name)
    values = torch.empty(POOL, dtype=torch.bfloat16).normal_(generator=torch.Generator().manual_seed(0))
    weight_map = {}
    for number, names in enumerate(shards.values(), 1):
        file = f"{STEM}-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file({name: _random(tensors[name], values) for name in names}, folder / file, {"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    (folder / f"{STEM}.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def _random(like: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    if like.ndim == 1:
        return torch.ones(like.shape, dtype=torch.bfloat16)
    whole = values.repeat(-(-like.numel() // POOL))[: like.numel()]
    return whole.reshape(like.shape).mul_(like[0].numel() ** -0.5)
