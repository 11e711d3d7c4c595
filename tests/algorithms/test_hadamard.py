"""Hadamard rotations that are folded: where they go, and what is told of where they do not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llmc.algorithms.hadamard import Hadamard
from llmc.calib.block import BlockStep
from llmc.calib.group import Group
from llmc.layers.linear import QuantLinear
from llmc.layers.transforms import Rotate
from llmc.numerics.spec import LayerSpec, TensorSpec

W8A8 = LayerSpec(
    weight=TensorSpec(format="int8", granularity="per_channel"), act=TensorSpec(format="int8", granularity="per_token")
)
WIDTH, HEAD = 32, 8


def block(folds: bool = True) -> BlockStep:
    """A v, and the output projection that reads what attention makes of it, head by head."""
    torch.manual_seed(0)
    v, out = (QuantLinear(nn.Linear(WIDTH, WIDTH), W8A8) for _ in range(2))
    stats = {"rows": torch.randn(64, WIDTH)}
    groups = [
        Group("block.v", ("block.v",), (v,), (), stats),
        Group("block.out", ("block.out",), (out,), (("block.v", v),) if folds else (), stats, head_width=HEAD),
    ]
    return BlockStep("block", nn.ModuleList([v, out]), groups)


@torch.no_grad()
def rotations(step: BlockStep, **settings: object) -> list[Rotate]:
    """What folding leaves on the output projection, which must be absorbed by v."""
    Hadamard.model_validate({"where": "folded", "gate": False, **settings}).apply(step)
    found = step.groups[1].linears[0].state.transforms
    assert all(isinstance(transform, Rotate) and transform.upstream for transform in found)
    return [transform for transform in found if isinstance(transform, Rotate)]


def mixed_by(rotation: Rotate) -> int:
    """How many channels the first one is spread over."""
    return int((rotation.input(torch.eye(WIDTH)[0]) != 0).sum())


@pytest.mark.parametrize(("asked", "mixed"), [(None, HEAD), (4, 4)])
def test_a_rotation_mixes_no_more_than_a_head(asked: int | None, mixed: int) -> None:
    step = block()
    (rotation,) = rotations(step, block_size=asked)
    assert mixed_by(rotation) == mixed and step.rejected == {}


def test_a_block_size_that_does_not_fit_into_heads_is_counted() -> None:
    step = block()
    (rotation,) = rotations(step, block_size=16)
    assert mixed_by(rotation) == HEAD
    assert step.rejected == {"Hadamard block_size 16 in heads of 8": 1}


def test_an_attention_whose_v_cannot_absorb_it_is_counted() -> None:
    step = block(folds=False)
    assert rotations(step) == [] and step.rejected == {"Hadamard folded, where no v can absorb it": 1}


def test_a_size_of_which_no_matrix_is_known_is_a_problem_wherever_it_goes() -> None:
    for where in ("online", "folded"):
        found = Hadamard.model_validate({"where": where, "block_size": 7}).width_problem(28)
        assert found == "no Hadamard matrix of block_size 7 is known here; use a power of two"
