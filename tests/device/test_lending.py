"""Weights that take turns on a device: the same numbers, in the room of a few blocks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from llmc.__main__ import main
from llmc.calib.values_on_disk import put_away
from llmc.layers.lender import Lender
from llmc.layers.linear import QuantLinear
from llmc.layers.turns import AT_ONCE
from llmc.numerics.spec import LayerSpec, TensorSpec
from tests.convert.tiny import lazy
from tests.device.pretended import NAME, Pretended
from tests.end_to_end.small_run import small_config

WIDE, BLOCKS = 256, 6
BLOCK = 4 * WIDE * WIDE  # bytes


def lent(device: torch.device, resident: int) -> tuple[nn.Module, nn.Module]:
    """A network of large linears, and the same lent on a device."""
    whole = nn.Sequential(*(nn.Linear(WIDE, WIDE) for _ in range(BLOCKS)))
    with torch.device("meta"):
        empty = nn.Sequential(*(nn.Linear(WIDE, WIDE) for _ in range(BLOCKS)))
    sources = {name: lazy(tensor) for name, tensor in whole.state_dict().items()}
    Lender("part", empty, [*empty], sources, device, resident)
    return whole, empty


@torch.no_grad()
@pytest.mark.parametrize("resident", [0, 2, BLOCKS])
def test_what_is_held_is_the_residents_two_blocks_and_the_one_that_comes(pretended: Pretended, resident: int) -> None:
    whole, own = lent(pretended.device, resident)
    x, before = torch.rand(4, WIDE), pretended.held
    for _ in range(2):
        torch.testing.assert_close(own(x.to(pretended.device)).cpu(), whole(x))
    most = min(BLOCKS, resident + AT_ONCE + 1) * BLOCK
    assert pretended.peak - before < most + BLOCK / 4


@pytest.mark.slow
def test_a_run_comes_to_the_same_however_many_blocks_are_resident(pretended: Pretended, tmp_path: Path) -> None:
    config = small_config(tmp_path, base={"device": NAME})
    figures = {}
    for resident in ("0", "1", "auto"):
        changes = [f"base.resident={resident}", f"base.run_dir={tmp_path / resident}"]
        changes.append(f"save.save_path={tmp_path / f'export{resident}'}")
        assert main(["run", "--config", str(config), *(word for each in changes for word in ("--set", each))]) == 0
        figures[resident] = json.loads((tmp_path / resident / "results.json").read_text())["metrics"]
    assert figures["0"] == figures["1"] == figures["auto"]
    exports = [load_file(next((tmp_path / f"export{each}").glob("*.safetensors"))) for each in figures]
    for other in exports[1:]:
        assert other.keys() == exports[0].keys()
        assert all(other[name].equal(tensor) for name, tensor in exports[0].items())


@torch.no_grad()
def test_codes_of_blocks_that_take_turns_wait_on_the_host_and_compute_on_the_device(pretended: Pretended) -> None:
    whole, own = lent(pretended.device, resident=1)
    int8 = LayerSpec(weight=TensorSpec(format="int8", granularity="per_channel"))
    layers = [QuantLinear(layer, int8) for layer in own.children() if isinstance(layer, nn.Linear)]
    for layer in layers:
        layer.round()
        put_away(layer)
        layer.mode = "quantized"
    assert [layer.state.rounded.codes.is_cpu for layer in layers if layer.state.rounded] == [False, *[True] * 5]
    x = torch.rand(4, WIDE)
    for layer, float_layer in zip(layers, whole.children(), strict=True):
        found, wanted = layer(x.to(pretended.device)), float_layer(x)
        assert found.device == pretended.device
        torch.testing.assert_close(found.cpu(), wanted, rtol=0.01, atol=0.01)
