"""The reader of ComfyUI's forms: what it makes of each layer of a file, and that mistakes have a name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from llmc.algorithms.hadamard import Hadamard
from llmc.algorithms.smoothquant import SmoothQuant
from llmc.export.comfyui.exporter import ComfyUI
from llmc.export.comfyui.forms import FORMS as WRITTEN
from llmc.policy.rules import Policy
from llmc.verify.comfyui.forms import FORMS, description_problems, readings, rotation, turned
from tests.export.comfyui.grids import GRIDS
from tests.export.tiny import finished_part, save_tiny

LAYER, MODULE = "blocks.1.ffn.net.2", "blocks.1.ffn.2"
ONE_OF_EACH = ["int8", "w4a4", "w4a8", "awq", "nvfp4 static", "mxfp8", "e5m2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("wan"))


@torch.no_grad()
@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_layer_is_read_as_it_was_judged_and_every_mistake_is_farther(folder: Path, tmp_path: Path, name: str) -> None:
    recipe = (SmoothQuant(gate=False), Hadamard(matrix="regular", gate=False))
    part, network = finished_part(folder, ComfyUI(), Policy(GRIDS[name]), recipe=recipe)
    ComfyUI().write(part, tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    tensors = leaves_of(load_file(file), MODULE)
    says = json.loads(bytes(tensors.pop("comfy_quant").tolist()))
    layer, form = network.layers[LAYER], FORMS[says["format"]]
    assert list(description_problems(says, layer.in_features)) == []
    for leaf, wanted in {"weight": form.weight(64, 128), **form.leaves(64, 128, says)}.items():
        assert tensors[leaf].dtype in wanted.dtypes and tuple(tensors[leaf].shape) in wanted.shapes, leaf
    rounded = layer.rounded
    assert rounded is not None
    assert torch.equal(next(form.decode(tensors, says)).weight, rounded.dequantize())
    right, *faults = readings(tensors, says)
    wanted_weight = turned(layer.float_weight(), rotation(says))
    distances = [float((each.weight - wanted_weight).norm() / wanted_weight.norm()) for each in (right, *faults)]
    assert right.fault == "" and all(each.fault for each in faults)
    assert distances[0] < 0.25 and min(distances[1:], default=9.0) > 2 * distances[0]


@pytest.mark.parametrize(
    "says, problem",
    [
        ({"format": "int4"}, "its format is 'int4'"),
        ({"format": "asym_w4a8_int8", "group_size": 16, "convrot_groupsize": 64}, "it has no convrot"),
        ({"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 128}, "rotated 128 at a time"),
        ({"format": "int8_tensorwise", "convrot": True}, "rotated 256 at a time"),
    ],
)
def test_a_wrong_description_is_named(says: Mapping[str, Any], problem: str) -> None:
    assert any(problem in found for found in description_problems(says, 128))


def test_reader_and_writer_know_the_same_forms() -> None:
    assert FORMS.keys() == {form.format for form in WRITTEN}
    assert {name for name, form in FORMS.items() if form.rotates} == {
        form.format for form in WRITTEN if form.rotation == "must"
    }


def leaves_of(tensors: Mapping[str, Tensor], module: str) -> dict[str, Tensor]:
    return {name.rpartition(".")[2]: tensor for name, tensor in tensors.items() if name.rpartition(".")[0] == module}
