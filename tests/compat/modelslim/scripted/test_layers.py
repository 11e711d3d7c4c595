"""Layers by the names of diffusers and by those of the repository that the model comes from."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from llmc.compat.modelslim.scripted.layers import resolve_layers
from llmc.errors import AdapterError, ConfigError
from llmc.models.base import adapter_of, adapters
from llmc.scripted import get_disable_layer_names
from tests.compat.modelslim.scripted.conftest import Load
from tests.slices import FAMILIES, slow_if
from tests.tiny_pipelines import TINY

BLOCKS = ("*double_blocks*", "*single_blocks*")


def test_the_globs_of_the_guide_find_our_layers(load: Load) -> None:
    model = load().transformer
    everything = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    disabled = set(get_disable_layer_names(model, BLOCKS, ["*img_mod*", "*modulation*", "*fc2*"]))
    blocks = ("transformer_blocks", "single_transformer_blocks")
    assert {name for name in everything if not name.startswith(blocks)} < disabled
    inside = {name.split(".", 2)[2] for name in disabled if name.startswith(blocks)}
    assert inside == {"norm1.linear", "norm.linear", "ff.net.2", "ff_context.net.2"}
    ours = get_disable_layer_names(
        model, ("transformer_blocks.*", "single_transformer_blocks.*"),
        ("*.norm1.linear", "*.norm.linear", "*ff.net.2", "*ff_context.net.2"),
    )  # fmt: skip
    assert set(ours) == disabled


def test_a_layer_may_be_written_down_in_either_naming(load: Load) -> None:
    model = load().transformer
    mlp = ["transformer_blocks.1.ff.net.0.proj"]
    assert resolve_layers(model, mlp) == resolve_layers(model, ["double_blocks.1.img_mlp.fc1"]) == mlp
    assert resolve_layers(model, ["single_blocks.0.linear1"]) == [
        f"single_transformer_blocks.0.{name}" for name in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")
    ]


def test_names_that_match_nothing_are_told_with_near_ones(load: Load) -> None:
    model = load().transformer
    with pytest.raises(ConfigError, match=r"the pattern '\*img_mlp.fc3\*' matches no linear.*img_mlp.fc"):
        get_disable_layer_names(model, BLOCKS, "*img_mlp.fc3*")
    with pytest.raises(ConfigError, match=r"the name 'double_blocks\.0\.img_attn_qk' matches no linear"):
        resolve_layers(model, ["double_blocks.0.img_attn_qk"])


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(name, marks=slow_if(name not in FAMILIES))
        for name, adapter in adapters().items()
        if adapter.network
    ],
)
def test_a_network_alone_is_the_part_of_its_pipeline(family: str, tmp_path: Path) -> None:
    TINY[family][0](tmp_path)
    for part in adapters()[family]().skeleton(tmp_path):
        alone = adapter_of(part.module).part_of(part.module)
        assert type(part.module).__name__ == adapters()[family].network
        assert (alone.blocks, alone.layout, alone.lasting) == (part.blocks, part.layout, part.lasting)
        assert adapter_of(part.module).original(part.module) == adapters()[family].original(part.module)


def test_another_network_is_refused_by_its_class() -> None:
    with pytest.raises(AdapterError, match=r"the model is a Linear, .* HunyuanVideoTransformer3DModel"):
        adapter_of(nn.Linear(2, 2))
