"""Every kind of Wan transformer that the table of renames covers, saved at tiny size."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from tests.convert.tiny import KINDS, tiny_wan


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def wan_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Kind -> a folder as diffusers saves it, with the mixed dtypes of real ones and smoothing's extra tensors."""
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
