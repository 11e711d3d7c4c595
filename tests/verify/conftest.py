"""Exports of every scheme, each made once by a whole run on a tiny model that fits every kernel."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from llmc.__main__ import main
from llmc.verify.manifest import MANIFEST
from tests.export.shipped import SHIPPED, shipped_config
from tests.tiny_pipelines import save_samples, save_wan_i2v


@dataclass(frozen=True)
class Exported:
    """What one run left."""

    folder: Path
    run: Path
    model: Path

    def copied(self, folder: Path) -> Path:
        """A copy to spoil: without the manifest, which would see any change, and started from where it lies."""
        shutil.copytree(self.folder, folder)
        (folder / MANIFEST).unlink()
        for file in folder.glob("lightx2v_*.json"):
            file.write_text(json.dumps({**json.loads(file.read_text()), "dit_quantized_ckpt": str(folder)}))
        return folder


Make = Callable[..., Exported]


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Make:
    root = tmp_path_factory.mktemp("verify")
    save_tiny_model(root / "model")
    save_samples(root / "samples", 1)
    made: dict[str, Exported] = {}

    def make(scheme: str, **save: Any) -> Exported:
        key = "-".join([scheme, *(f"{value}" for value in save.values())])
        if key not in made:
            out = root / key
            out.mkdir()
            assert main(["run", "--config", str(shipped_config(root, SHIPPED[scheme], out, **save))]) == 0
            made[key] = Exported(out / "export", out / "run", root / "model")
        return made[key]

    return make


def save_tiny_model(folder: Path) -> None:
    """Two blocks whose sizes are whole tiles of every kernel."""
    from diffusers import WanTransformer3DModel

    save_wan_i2v(folder)
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=4, attention_head_dim=64, in_channels=36, out_channels=16,
        text_dim=32, freq_dim=32, ffn_dim=512, num_layers=2, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64, image_dim=32, added_kv_proj_dim=256,
    )  # fmt: skip
    with torch.no_grad():  # scales that differ from group to group, so that their order can be told
        for name, weight in transformer.named_parameters():
            if name.startswith("blocks.") and weight.dim() == 2:
                weight *= torch.rand(weight.shape[0], 1) + 0.2
                weight *= (torch.rand(weight.shape[1] // 16) * 4 + 0.2).repeat_interleave(16)
    transformer.save_pretrained(folder / "transformer")
