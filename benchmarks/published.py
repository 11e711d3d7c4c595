"""Configurations of published models, without weights: what `llmc estimate` tells their cost from.

python -m benchmarks.published FOLDER: writes a folder for each of them
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Components = Mapping[str, tuple[str, str, Mapping[str, Any]]]  # name -> library, class, what its config.json says

UMT5 = ("transformers", "UMT5EncoderModel", {
    "model_type": "umt5", "vocab_size": 256384, "d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64,
    "num_layers": 24, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
})  # fmt: skip
CLIP_IMAGE = ("transformers", "CLIPVisionModel", {
    "model_type": "clip_vision_model", "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
    "num_attention_heads": 16, "patch_size": 14, "image_size": 224,
})  # fmt: skip
CLIP_TEXT = ("transformers", "CLIPTextModel", {
    "model_type": "clip_text_model", "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
    "num_attention_heads": 12, "projection_dim": 768,
})  # fmt: skip
T5 = ("transformers", "T5EncoderModel", {
    "model_type": "t5", "vocab_size": 32128, "d_model": 4096, "d_ff": 10240, "d_kv": 64, "num_heads": 64,
    "num_layers": 24, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
})  # fmt: skip
LLAMA = ("transformers", "LlamaModel", {
    "model_type": "llama", "vocab_size": 128320, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
})  # fmt: skip
WAN_VAE = ("diffusers", "AutoencoderKLWan", {})
FLUX_VAE = ("diffusers", "AutoencoderKL", {
    "block_out_channels": [128, 256, 512, 512], "latent_channels": 16, "layers_per_block": 2,
    "down_block_types": ["DownEncoderBlock2D"] * 4, "up_block_types": ["UpDecoderBlock2D"] * 4,
    "use_quant_conv": False, "use_post_quant_conv": False, "scaling_factor": 0.3611, "shift_factor": 0.1159,
})  # fmt: skip


def wan(dim: int, ffn: int, blocks: int, **more: Any) -> tuple[str, str, Mapping[str, Any]]:
    """A Wan network, whose heads are 128 wide."""
    sizes = {"num_attention_heads": dim // 128, "attention_head_dim": 128, "ffn_dim": ffn, "num_layers": blocks}
    return "diffusers", "WanTransformer3DModel", {**sizes, **more}


IMAGE_14B = wan(5120, 13824, 40, in_channels=36)
PUBLISHED: Mapping[str, tuple[str, Components, Mapping[str, Any]]] = {
    "Wan2.1-T2V-1.3B": (
        "WanPipeline",
        {"transformer": wan(1536, 8960, 30), "text_encoder": UMT5, "vae": WAN_VAE},
        {},
    ),
    "Wan2.1-I2V-14B": (
        "WanImageToVideoPipeline",
        {"transformer": wan(5120, 13824, 40, in_channels=36, image_dim=1280, added_kv_proj_dim=5120),
         "text_encoder": UMT5, "image_encoder": CLIP_IMAGE, "vae": WAN_VAE},
        {},
    ),
    "Wan2.2-I2V-A14B": (
        "WanImageToVideoPipeline",
        {"transformer": IMAGE_14B, "transformer_2": IMAGE_14B, "text_encoder": UMT5, "vae": WAN_VAE},
        {"boundary_ratio": 0.9},
    ),
    "HunyuanVideo": (
        "HunyuanVideoPipeline",
        {"transformer": ("diffusers", "HunyuanVideoTransformer3DModel", {}), "text_encoder": LLAMA,
         "text_encoder_2": CLIP_TEXT, "vae": ("diffusers", "AutoencoderKLHunyuanVideo", {})},
        {},
    ),
    "FLUX.1-dev": (
        "FluxPipeline",
        {"transformer": ("diffusers", "FluxTransformer2DModel", {"guidance_embeds": True}), "text_encoder": CLIP_TEXT,
         "text_encoder_2": T5, "vae": FLUX_VAE},
        {},
    ),
}  # fmt: skip


def write_published(name: str, folder: Path) -> Path:
    """The folder of a model as it is published, but for its weights."""
    pipeline, components, settings = PUBLISHED[name]
    found = folder / name
    index: dict[str, Any] = {"_class_name": pipeline, **settings}
    for component, (library, kind, config) in components.items():
        index[component] = [library, kind]
        said = {"_class_name": kind, **config} if library == "diffusers" else config
        _write(found / component / "config.json", said)
    _write(found / "model_index.json", index)
    return found


def _write(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.published", description=__doc__)
    parser.add_argument("folder", type=Path)
    for name in PUBLISHED:
        print(write_published(name, parser.parse_args().folder))
