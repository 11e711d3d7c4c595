"""What is taken apart comes back: values, classes, and tensors that are shared."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from llmc.calib.serialization import Packer, unpack
from llmc.layers.linear import LayerState
from llmc.layers.steps import StepGrids
from llmc.layers.transforms import ModulatedRows, Rotate, Scale
from llmc.numerics.quantize import quantize
from llmc.numerics.spec import TensorSpec


def there_and_back(value: Any) -> tuple[Any, Packer]:
    packer = Packer()
    packed = packer.pack(value)
    return unpack(packed, packer.tensors), packer


def assert_same(value: Any, other: Any) -> None:
    one, two = Packer(), Packer()
    assert one.pack(value) == two.pack(other)
    assert all(torch.equal(one.tensors[name].float(), two.tensors[name].float()) for name in one.tensors)
    assert [t.dtype for t in one.tensors.values()] == [t.dtype for t in two.tensors.values()]


SPECS = [
    TensorSpec(format="int4", granularity="per_group", group_size=8, symmetric=False),
    TensorSpec(format="fp8_e4m3", granularity="per_channel"),
    TensorSpec(format="nvfp4", granularity="per_group", group_size=16),
]


@pytest.mark.parametrize("spec", SPECS, ids=str)
def test_a_layers_state_comes_back(spec: TensorSpec) -> None:
    scale = Scale(torch.rand(16) + 1, fold=ModulatedRows("blocks.0.mod", (16,), (0,)))
    state = LayerState(
        transforms=(scale, Rotate((torch.eye(4), torch.eye(4)), upstream=True)),
        lowrank=(torch.randn(8, 2), torch.randn(2, 16)),
        static=(torch.rand(1, 1), None),
        steps=StepGrids(torch.rand(3), None, 1, (2,)),
        rounded=quantize(torch.randn(8, 16), spec),
    )
    again, _ = there_and_back(state)
    assert_same(again, state)
    assert torch.equal(again.rounded.dequantize(), state.rounded.dequantize())
    assert again.transforms[0].fold == scale.fold


def test_a_tensor_that_is_there_twice_is_kept_once() -> None:
    shared = torch.randn(3)
    (one, two), packer = there_and_back((Scale(shared), Scale(shared)))
    assert len(packer.tensors) == 1 and one.multiplier is two.multiplier


def test_views_of_one_tensor_are_kept_apart() -> None:
    whole = torch.arange(6.0)
    value = [whole, whole[2:4], whole.reshape(2, 3), whole.reshape(2, 3).T, whole[:0]]
    again, packer = there_and_back(value)
    assert_same(again, value)
    assert len({tensor.untyped_storage().data_ptr() for tensor in packer.tensors.values() if tensor.numel()}) == 3


def test_keys_keep_their_types() -> None:
    value = {"part": {0: {1: 2}}, "none": None, "flags": (True, 1.5, "words", [])}
    assert there_and_back(value)[0] == value


def test_what_has_no_name_is_refused() -> None:
    @dataclass
    class Local:
        value: int = 0

    with pytest.raises(TypeError, match=r"Local is not to be found by name in"):
        Packer().pack(Local())
    with pytest.raises(TypeError, match="a set is neither a dataclass nor a plain value"):
        Packer().pack({1})


@pytest.mark.parametrize("name", ["os:system", "subprocess:Popen", "nowhere:Thing", "llmc.calib.serialization:Packer"])
def test_only_dataclasses_that_are_loaded_are_made(name: str) -> None:
    with pytest.raises(ValueError, match=f"no class of the name {name} is loaded"):
        unpack({"class": name, "fields": {}}, {})
    with pytest.raises(ValueError, match="no class of the name"):
        unpack({"settings": name, "fields": {}}, {})


def test_what_json_has_no_word_for_comes_back() -> None:
    value = {"scale": float("inf"), "shift": [-float("inf"), 0.5]}
    found, packer = there_and_back(value)
    assert found == value
    assert "Infinity" not in json.dumps(packer.pack(value), allow_nan=False)
