"""Every kind of Wan transformer that the table of renames covers, at tiny size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

KINDS = ("t2v", "i2v", "flf2v", "vace")


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


def tiny_wan(kind: str) -> Any:
    from diffusers import WanTransformer3DModel, WanVACETransformer3DModel

    sizes: dict[str, Any] = {
        "patch_size": (1, 2, 2), "num_attention_heads": 2, "attention_head_dim": 12, "in_channels": 4, "out_channels": 4,
        "text_dim": 8, "freq_dim": 8, "ffn_dim": 16, "num_layers": 2,
    }  # fmt: skip
    image = {"in_channels": 9, "image_dim": 10, "added_kv_proj_dim": 24}
    torch.manual_seed(0)
    match kind:
        case "t2v":
            return WanTransformer3DModel(**sizes)
        case "i2v":
            return WanTransformer3DModel(**sizes | image)
        case "flf2v":
            return WanTransformer3DModel(**sizes | image, pos_embed_seq_len=514)
        case _:
            return WanVACETransformer3DModel(**sizes, vace_layers=[0], vace_in_channels=6)


@pytest.fixture(scope="session")
def wan_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind -> a folder as diffusers saves it, with the mixed dtypes of real ones and smoothing's extra tensors."""
    from safetensors.torch import save_file

    folders = {}
    for kind in KINDS:
        folder = folders[kind] = tmp_path_factory.mktemp(kind)
        model = tiny_wan(kind)
        tensors = model.state_dict()
        for name in [name for name in tensors if name.endswith("to_q.weight")]:
            block = name.split(".attn")[0]
            tensors[name] = tensors[name].mul(100).to(torch.int8)
            tensors[f"{name}_scale"] = torch.rand(24, 1).bfloat16()
            tensors[f"{block}.affine_norm1.weight"] = torch.rand(24)
            tensors[f"{block}.affine_norm3.bias"] = torch.rand(24)
        save_file(tensors, folder / "diffusion_pytorch_model.safetensors", {"format": "pt", "recipe": "smooth"})
        model.save_config(folder)
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"quant_method": "advanced_ptq"}))
    return folders
