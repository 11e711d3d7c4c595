"""Tensors that stay in their file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llmc.convert.mapped import mapped
from llmc.convert.safetensors_file import RowTensor, StoredTensor, make_rows, read_tensors

TENSORS = {
    "a": torch.rand(5, 3), "b": torch.rand(4).bfloat16(), "c": torch.randint(9, (2, 2, 2), dtype=torch.int8),
    "empty": torch.empty(0, 3), "one": torch.tensor(2.0),
}  # fmt: skip


def test_a_mapped_tensor_has_the_values_of_the_file_and_any_of_its_rows(tmp_path: Path) -> None:
    save_file(TENSORS, tmp_path / "some.safetensors")
    views = mapped(read_tensors(tmp_path / "some.safetensors")[0])
    assert views.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        found = views[name].make()
        assert (found.dtype, views[name].dtype, views[name].shape) == (tensor.dtype, tensor.dtype, tuple(tensor.shape))
        assert found.equal(tensor)
        if len(tensor.shape) > 0 and len(tensor) > 1:
            assert isinstance(views[name], RowTensor) and make_rows(views[name], 1, 2).equal(tensor[1:2])


def test_making_one_twice_copies_nothing_and_a_change_does_not_reach_the_file(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    save_file(TENSORS, path)
    content = path.read_bytes()
    view = mapped(read_tensors(path)[0])["b"]
    assert view.make().data_ptr() == view.make().data_ptr()
    view.make().zero_()
    assert path.read_bytes() == content


@pytest.mark.parametrize(("dtype", "place", "stays"), [
    (torch.float32, 64, True), (torch.float32, 8, False), (torch.float32, 1, False),
    (torch.bfloat16, 8, True), (torch.bfloat16, 1, False), (torch.int8, 1, True),
])  # fmt: skip
def test_a_tensor_whose_place_a_product_may_notice_is_copied(
    dtype: torch.dtype, place: int, stays: bool, tmp_path: Path
) -> None:
    """So that nothing depends on how long the header of a file is."""
    path, values = tmp_path / "some.safetensors", torch.tensor([1, 2]).to(dtype)
    kind, size = {torch.float32: "F32", torch.bfloat16: "BF16", torch.int8: "I8"}[dtype], values.nbytes
    text = b'{"a":{"dtype":"%b","shape":[2],"data_offsets":[0,%d]}}' % (kind.encode(), size)
    text += b" " * ((place - 8 - len(text)) % 64)
    path.write_bytes(len(text).to_bytes(8, "little") + text + values.view(torch.uint8).numpy().tobytes())
    (tensor,) = mapped(read_tensors(path)[0]).values()
    assert tensor.make().tolist() == [1, 2] and isinstance(tensor, StoredTensor) != stays
    assert stays or tensor.make().data_ptr() % 64 == 0
