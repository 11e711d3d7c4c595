"""What an adapter says that a call is given is what its pipeline gives."""

from __future__ import annotations

from typing import Any

import torch

from llmc.calib.store import map_tree
from tests.contracts.conftest import Family


def shape(tensor: torch.Tensor) -> tuple[tuple[int, ...], bool]:
    return tuple(tensor.shape), tensor.is_floating_point()


def test_a_call_has_the_tensors_that_the_adapter_says(family: Family) -> None:
    index = family.adapter.index(family.source)
    for part in family.adapter.skeleton(family.source):
        _, _, sampling = family.planned[0]
        said = family.adapter.inputs(index, part.module, sampling)
        call = family.float_calls[part.name].call(0, "cpu")
        given: dict[str, Any] = {name: value for name, value in call.kwargs.items() if tensors(value)}
        assert call.args == () and all(tensor.is_meta for value in said.values() for tensor in tensors(value))
        said = {name: value for name, value in said.items() if value is not None}
        assert as_shapes(said) == as_shapes(given)


def as_shapes(values: dict[str, Any]) -> Any:
    return {name: [shape(tensor) for tensor in tensors(value)] for name, value in values.items()}


def tensors(value: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    map_tree(value, found.append, torch.Tensor)
    return found
