"""What an adapter says that a call is given is what its pipeline gives."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from llmc.calib.store import map_tree
from tests.contracts.conftest import Family


def test_a_call_has_the_tensors_that_the_adapter_says(family: Family) -> None:
    index = family.adapter.index(family.source)
    for part in family.adapter.skeleton(family.source):
        _, _, sampling = family.planned[0]
        said = family.adapter.inputs(index, part.module, sampling)
        call = family.float_calls[part.name].call(0, "cpu")
        called = inspect.signature(part.module.forward).bind(*call.args, **call.kwargs).arguments
        given: dict[str, Any] = {name: value for name, value in called.items() if tensors(value)}
        assert all(tensor.is_meta for value in said.values() for tensor in tensors(value))
        said = {name: value for name, value in said.items() if value is not None}
        assert said.keys() == given.keys()
        for name, value in said.items():
            longest, own = tensors(value), tensors(given[name])
            assert [x.is_floating_point() for x in longest] == [x.is_floating_point() for x in own], name
            if name in family.adapter.prompt_sized:
                for one, other in zip(longest, own, strict=True):
                    assert len(one.shape) == len(other.shape), name
                    assert all(most >= size for most, size in zip(one.shape, other.shape, strict=True)), name
            else:
                assert [x.shape for x in longest] == [x.shape for x in own], name


def tensors(value: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    map_tree(value, found.append, torch.Tensor)
    return found
