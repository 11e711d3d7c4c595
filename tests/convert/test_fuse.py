from __future__ import annotations

import pytest
import torch
from torch import Tensor

from llmc.convert import safetensors_file
from llmc.convert.fuse import equal, fuse, split
from llmc.convert.safetensors_file import LazyTensor
from llmc.errors import ExportError
from tests.convert.tiny import lazy


def layer(rows: int, **others: Tensor) -> dict[str, LazyTensor]:
    tensors = {"weight": torch.randint(-127, 128, (rows, 6), dtype=torch.int8), **others}
    return {leaf: lazy(tensor) for leaf, tensor in tensors.items()}


def test_scales_per_channel_are_stacked_and_what_is_the_layer_s_stays_one() -> None:
    one, two = (layer(4, weight_scale=torch.rand(4, 1), bias=torch.rand(4), alpha=torch.tensor(2.0)) for _ in range(2))
    whole = fuse("x", [one, two], (1, 1))
    assert {leaf: tensor.shape for leaf, tensor in whole.items()} == {
        "weight": (8, 6),
        "weight_scale": (8, 1),
        "bias": (8,),
        "alpha": (),
    }
    for part, expected in zip(split("x", whole, (1, 1)), (one, two), strict=True):
        assert all(equal(part[leaf], expected[leaf]) for leaf in expected)


def test_shares_say_how_many_rows_each_part_has() -> None:
    whole = layer(14, weight_scale=torch.rand(14, 1))
    parts = split("x", whole, (1, 1, 1, 4))
    assert [part["weight_scale"].shape for part in parts] == [(2, 1), (2, 1), (2, 1), (8, 1)]
    assert all(equal(tensor, whole[leaf]) for leaf, tensor in fuse("x", parts, (1, 1, 1, 4)).items())
    with pytest.raises(ExportError, match=r"has 14 rows, which cannot be shared out 1:1:1"):
        split("x", whole, (1, 1, 1))
    with pytest.raises(ExportError, match=r"parts of \[4, 2\] rows; their shares are 1:1"):
        fuse("x", [layer(4), layer(2)], (1, 1))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)], ids=str)
def test_one_scale_for_a_whole_tensor_is_fused_only_if_it_is_the_same(shape: tuple[int, ...]) -> None:
    scales = [torch.full(shape, value) for value in (0.5, 0.5, 0.25)]
    whole = fuse("x", [layer(4, weight_scale=scale) for scale in scales[:2]], (1, 1))
    assert whole["weight_scale"].make().item() == 0.5
    assert [part["weight_scale"].make().item() for part in split("x", whole, (1, 1))] == [0.5, 0.5]
    with pytest.raises(ExportError, match=r"x\.weight_scale would be one of .*0\.5.*0\.25.*one scale per output"):
        fuse("x", [layer(4, weight_scale=scale) for scale in scales], (1, 1, 1))


def test_scales_of_blocks_are_cut_between_their_tiles_only() -> None:
    blocks = [layer(256, weight_scale=torch.rand(2, 1)) for _ in range(2)]
    whole = fuse("x", blocks, (1, 1))
    assert whole["weight_scale"].shape == (4, 1)
    for part, expected in zip(split("x", whole, (1, 1)), blocks, strict=True):
        assert equal(part["weight_scale"], expected["weight_scale"])
    with pytest.raises(ExportError, match=r"a part of the layer has 200 rows.*multiples of 128"):
        fuse("x", [layer(200, weight_scale=torch.rand(2, 1)) for _ in range(2)], (1, 1))
    swizzled = {"weight_scale": torch.zeros(64, 4, dtype=torch.uint8)}
    with pytest.raises(ExportError, match=r"a part of the layer has 64 rows"):
        fuse("x", [layer(64, **swizzled) for _ in range(2)], (1, 1))


def test_layers_that_are_not_quantized_alike_are_refused() -> None:
    with pytest.raises(ExportError, match=r"not alike: weight int8, weight_scale float32; weight int8"):
        fuse("x", [layer(4, weight_scale=torch.rand(4, 1)), layer(4)], (1, 1))


def test_what_is_not_known_of_a_layer_is_refused() -> None:
    with pytest.raises(ExportError, match=r"x\.svd_up is not known.*only weight, bias"):
        fuse("x", [layer(4, svd_up=torch.rand(4, 1)), layer(4, svd_up=torch.rand(4, 1))], (1, 1))
    with pytest.raises(ExportError, match=r"x has bias, but no weight"):
        split("x", {"bias": lazy(torch.ones(2))}, (1, 1))


def test_equal_compares_bits_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(safetensors_file, "PIECE", 16)
    nan = torch.full((3, 10), float("nan"), dtype=torch.bfloat16)
    assert equal(lazy(nan), lazy(nan.clone())) and not equal(lazy(nan), lazy(nan.float()))
    other = nan.clone()
    other[2, -1] = 1
    assert not equal(lazy(nan), lazy(other)) and not equal(lazy(torch.tensor(1.0)), lazy(torch.tensor(2.0)))
