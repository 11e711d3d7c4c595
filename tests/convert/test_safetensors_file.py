import json
import weakref
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmc.convert.safetensors_file import DTYPES, read_tensors, write_file
from llmc.errors import ExportError
from tests.convert.tiny import Made, lazy


def one_of_each() -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    raw = {code: torch.randint(0, 2, (3, 8), generator=random).to(torch.uint8) for code in DTYPES}
    tensors = {f"z.{code}": raw[code].view(getattr(torch, dtype)) for code, dtype in DTYPES.items()}
    extra = {"scalar": torch.tensor(0.5), "empty": torch.zeros(0, 4), "a.bf16": torch.rand(5).bfloat16()}
    return tensors | extra | {"zeros": torch.tensor([0.0, -0.0]), "odd": torch.ones(3, dtype=torch.int8)}


@pytest.mark.parametrize("metadata", [None, {"made": "für uns"}])
def test_a_file_is_byte_for_byte_what_the_library_writes(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    tensors = one_of_each()
    save_file(tensors, tmp_path / "theirs", metadata)
    write_file(tmp_path / "ours", {name: lazy(tensor) for name, tensor in tensors.items()}, metadata)
    assert (tmp_path / "ours").read_bytes() == (tmp_path / "theirs").read_bytes()


def test_the_library_reads_a_file_and_its_tensors_are_the_same_to_the_bit(tmp_path: Path) -> None:
    tensors = one_of_each()
    write_file(tmp_path / "file", {name: lazy(tensor) for name, tensor in tensors.items()})
    there = load_file(tmp_path / "file")
    assert there.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert there[name].dtype == tensor.dtype and there[name].shape == tensor.shape
        assert torch.equal(there[name].flatten().view(torch.uint8), tensor.flatten().view(torch.uint8))


def test_a_header_lists_what_is_in_a_file_and_each_tensor_is_read_alone(tmp_path: Path) -> None:
    tensors = one_of_each()
    save_file(tensors, tmp_path / "file", {"made": "by them"})
    stored, metadata = read_tensors(tmp_path / "file")
    assert metadata == {"made": "by them"}
    for name, tensor in tensors.items():
        assert (stored[name].dtype, stored[name].shape) == (tensor.dtype, tuple(tensor.shape))
        assert torch.equal(stored[name].make().flatten().view(torch.uint8), tensor.flatten().view(torch.uint8))


def test_a_non_contiguous_tensor_is_written_by_its_values(tmp_path: Path) -> None:
    tensor = torch.arange(12.0).reshape(3, 4).T
    write_file(tmp_path / "file", {"x": lazy(tensor)})
    assert torch.equal(load_file(tmp_path / "file")["x"], tensor)


def test_only_one_tensor_is_alive_while_a_file_is_written(tmp_path: Path) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []

    def make() -> torch.Tensor:
        assert not any(reference() is not None for reference in alive[:-1])
        tensor = torch.ones(4)
        alive.append(weakref.ref(tensor))
        return tensor

    write_file(tmp_path / "file", {str(i): Made(torch.float32, (4,), make) for i in range(5)})
    assert len(alive) == 5


def test_a_tensor_that_fails_leaves_no_file_and_keeps_the_old_one(tmp_path: Path) -> None:
    def fail() -> torch.Tensor:
        raise RuntimeError("out of memory")

    tensors = {"a": lazy(torch.ones(2)), "b": Made(torch.float32, (2,), fail)}
    with pytest.raises(RuntimeError, match="out of memory"):
        write_file(tmp_path / "new", tensors)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").write_bytes(b"old")
    with pytest.raises(RuntimeError, match="out of memory"):
        write_file(tmp_path / "old", tensors)
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("old", b"old")]


def test_a_tensor_that_is_not_what_its_header_says_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"x was made as torch.float32 \(2,\); its header says torch.float32 \(3,\)"):
        write_file(tmp_path / "file", {"x": Made(torch.float32, (3,), lambda: torch.ones(2))})


def test_a_dtype_that_cannot_be_stored_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"x is torch\.complex64"):
        write_file(tmp_path / "file", {"x": lazy(torch.zeros(2, dtype=torch.complex64))})


def test_a_file_has_the_mode_asked_for_or_the_umask_s(tmp_path: Path) -> None:
    write_file(tmp_path / "private", {"x": lazy(torch.ones(2))}, mode=0o640)
    write_file(tmp_path / "usual", {"x": lazy(torch.ones(2))})
    (tmp_path / "plain").touch()
    assert (tmp_path / "private").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "usual").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.parametrize(
    ("cut", "message"), [(-3, "its header asks for"), (20, "no whole header"), (0, "no whole header")]
)
def test_a_truncated_file_is_refused(tmp_path: Path, cut: int, message: str) -> None:
    write_file(tmp_path / "whole", {"x": lazy(torch.ones(9))})
    (tmp_path / "cut").write_bytes((tmp_path / "whole").read_bytes()[:cut])
    with pytest.raises(ExportError, match=message):
        read_tensors(tmp_path / "cut")


@pytest.mark.parametrize("entry", [3, {}, {"dtype": "F32", "shape": "2", "data_offsets": [0, 8]}])
def test_a_header_that_does_not_say_where_a_tensor_is_is_refused(tmp_path: Path, entry: object) -> None:
    text = json.dumps({"x": entry}).encode()
    (tmp_path / "odd").write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(
        ExportError,
        match="odd has a damaged header: nothing is said of x, or no type, shape and place; copy or download it again",
    ):
        read_tensors(tmp_path / "odd")
