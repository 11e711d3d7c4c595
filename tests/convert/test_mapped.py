"""Tensors that stay in their file."""

from __future__ import annotations

from pathlib import Path

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
    view = mapped(read_tensors(path)[0])["a"]
    assert view.make().data_ptr() == view.make().data_ptr()
    view.make().zero_()
    assert path.read_bytes() == content


def test_a_tensor_at_an_odd_place_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    text = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'
    text += b" " * (1 + -len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + torch.tensor([1.0, 2.0]).numpy().tobytes())
    (tensor,) = mapped(read_tensors(path)[0]).values()
    assert isinstance(tensor, StoredTensor) and tensor.make().tolist() == [1.0, 2.0]
