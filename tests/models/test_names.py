"""Names and rows in the original's layout are those that diffusers itself converts."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmc.convert.names import Known, Names
from llmc.models.base import adapters
from llmc.models.networks import empty_network

GOLDEN = Path(__file__).parents[1] / "golden" / "configs"
# of a published network, with fewer blocks where the conversion lets them be fewer
CONVERTED: dict[str, tuple[str, str, dict[str, Any]]] = {
    "ZImage": ("z_image", "convert_z_image_transformer_checkpoint_to_diffusers", {"n_layers": 2}),
    "Flux2Klein": (
        "flux2_klein_4b", "convert_flux2_transformer_checkpoint_to_diffusers",
        {"num_layers": 2, "num_single_layers": 2},
    ),
    "LTX2": ("ltx2_19b", "convert_ltx2_transformer_to_diffusers", {"num_layers": 2}),
    "Mochi": ("mochi_1", "convert_mochi_transformer_checkpoint_to_diffusers", {}),
}  # fmt: skip


@pytest.mark.parametrize("family", CONVERTED)
def test_the_original_layout_is_the_one_that_diffusers_converts(family: str) -> None:
    from diffusers.loaders import single_file_utils as theirs

    golden, function, changes = CONVERTED[family]
    convert: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]] = getattr(theirs, function)
    network = empty_network(json.loads((GOLDEN / f"{golden}.json").read_text(encoding="utf-8")) | changes)
    state, first = {}, 0
    for name, tensor in network.state_dict().items():  # rows count, columns are never looked at: one is enough
        rows = torch.arange(first, first + len(tensor)).float()
        state[name] = rows if tensor.ndim == 1 else rows[:, None]
        first += len(tensor)
    naming = Names(adapters()[family].original(network))
    there = naming.to_original({name: Known(tensor) for name, tensor in state.items()})
    converted = convert({name: tensor.make() for name, tensor in there.items()})
    assert converted.keys() == state.keys()
    assert [name for name in state if not torch.equal(converted[name], state[name])] == []
