"""The published configurations give networks of the published sizes, and as many linears as the families' pages say."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from llmc.models.base import adapters

GOLDEN = Path(__file__).parents[1] / "golden" / "configs"

# variant: adapter, parameters, gigabytes of the published 16-bit file, quantized share, linears by kind of block
VARIANTS = {
    "flux1_dev": ("Flux", 11_901_408_320, 23.80, 0.72,
                  {"FluxTransformerBlock": 19 * 12, "FluxSingleTransformerBlock": 38 * 5}),
    "flux1_schnell": ("Flux", 11_891_178_560, 23.78, 0.72,
                      {"FluxTransformerBlock": 19 * 12, "FluxSingleTransformerBlock": 38 * 5}),
    "hunyuan_video_t2v": ("HunyuanVideo", 12_821_012_544, 25.64, 0.71,
                          {"HunyuanVideoTransformerBlock": 20 * 12, "HunyuanVideoSingleTransformerBlock": 40 * 5}),
    # the last block's text goes nowhere: no output projection, no feed-forward
    "sd3_medium": ("SD3", 2_028_328_000, 4.17, 0.66, {"JointTransformerBlock": 24 * 12 - 3}),
    "sd3_5_medium": ("SD3", 2_243_171_520, 4.94, 0.65, {"JointTransformerBlock": 24 * 12 - 3 + 13 * 4}),
}  # fmt: skip


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_published_configuration_has_its_size_and_its_linears(variant: str, tmp_path: Path) -> None:
    name, parameters, gigabytes, share, linears = VARIANTS[variant]
    (tmp_path / "transformer").mkdir()
    shutil.copy(GOLDEN / f"{variant}.json", tmp_path / "transformer" / "config.json")
    adapter = adapters()[name]()
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": adapter.pipeline}))
    (part,) = adapter.skeleton(tmp_path)
    assert sum(parameter.numel() for parameter in part.module.parameters()) == parameters
    stored = sum(tensor.numel() for tensor in part.module.state_dict().values())  # SD3's positions are no parameters
    assert round(2 * stored / 1e9, 2) == gigabytes
    found: Counter[str] = Counter()
    quantized = 0
    for _, block in part.blocks:
        named = [linear for group in part.groups(block) for linear in group.linears]
        found[type(block).__name__] += len(named)
        quantized += sum(block.get_submodule(linear).weight.numel() for linear in named)
        others = {n for n, module in block.named_modules() if isinstance(module, torch.nn.Linear)} - set(named)
        assert all(other.endswith(".linear") and other.startswith("norm") for other in others), "modulations stay float"
    assert found == linears and round(quantized / parameters, 2) == share
