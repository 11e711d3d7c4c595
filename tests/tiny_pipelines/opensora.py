"""Open-Sora-Plan v1.2 at tiny size, in its official layout: the folder of a network, and `mt5-xxl` beside it."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from llmc.models.samples import Sampling
from tests.tiny_pipelines.common import Tiny, t5_tokenizer

CONFIG = {
    "_class_name": "OpenSoraT2V",
    "_diffusers_version": "0.30.2",
    "activation_fn": "gelu-approximate",
    "attention_bias": True,
    "attention_head_dim": 24,
    "attention_mode": "xformers",
    "attention_type": "default",
    "caption_channels": 32,
    "cross_attention_dim": 48,
    "double_self_attention": False,
    "downsampler": None,
    "dropout": 0.0,
    "in_channels": 4,
    "interpolation_scale_h": 1.0,
    "interpolation_scale_t": 1.0,
    "interpolation_scale_w": 1.0,
    "norm_elementwise_affine": False,
    "norm_eps": 1e-6,
    "norm_num_groups": 32,
    "norm_type": "ada_norm_single",
    "num_attention_heads": 2,
    "num_embeds_ada_norm": 1000,
    "num_layers": 2,
    "num_vector_embeds": None,
    "only_cross_attention": False,
    "out_channels": 4,
    "patch_size": 2,
    "patch_size_t": 1,
    "sample_size": [60, 80],
    "sample_size_t": 24,
    "upcast_attention": False,
    "use_additional_conditions": None,
    "use_linear_projection": False,
    "use_rope": True,
    "use_stable_fp32": False,
}


def save_opensora_plan(folder: Path) -> None:
    """2 blocks of width 48, and an MT5 encoder of two blocks in `mt5-xxl` beside `folder`."""
    from safetensors.torch import save_file
    from transformers import MT5Config, MT5EncoderModel

    from llmc.models.opensora_network import empty_network, read_config

    torch.manual_seed(0)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    weights = {
        name: torch.randn(tensor.shape) * 0.15
        for name, tensor in empty_network(read_config(folder)).state_dict().items()
    }
    save_file(weights, folder / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    encoder = MT5Config(vocab_size=512, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    MT5EncoderModel(encoder).save_pretrained(folder.parent / "mt5-xxl")
    t5_tokenizer().save_pretrained(folder.parent / "mt5-xxl")


PIPELINES: Tiny = {
    "OpenSoraPlan": (
        save_opensora_plan,
        Sampling(height=32, width=48, num_frames=5, steps=2, guidance_scale=2.0, seed=1),
    )
}
