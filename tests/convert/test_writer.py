import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmc.convert.checkpoint import open_checkpoint
from llmc.convert.writer import STEM, Suffix, check_space, plan_files, write_checkpoint, write_json
from llmc.errors import ExportError
from tests.convert.tiny import Made, lazy

TENSORS = {
    "head.weight": torch.rand(4),
    "blocks.0.a": torch.rand(2),
    "blocks.11.a": torch.rand(2),
    "vace_blocks.11.a": torch.rand(2),
    "blocks.0.b": torch.rand(3),
}
LAZY = {name: lazy(tensor) for name, tensor in TENSORS.items()}


def test_shards_are_filled_to_the_limit_and_an_index_names_every_tensor(tmp_path: Path) -> None:
    files = write_checkpoint(tmp_path, LAZY, "sharded", {"recipe": "x"}, max_shard_size=24)
    names = [f"diffusion_pytorch_model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    index_name = "diffusion_pytorch_model.safetensors.index.json"
    assert [file.name for file in files] == [*names, index_name]
    index = json.loads((tmp_path / index_name).read_text())
    assert index["metadata"] == {"total_size": 52}
    assert {name for name, file in index["weight_map"].items() if file == names[0]} == {"head.weight", "blocks.0.a"}
    assert all(
        torch.equal(load_file(tmp_path / file)[name], TENSORS[name]) for name, file in index["weight_map"].items()
    )
    assert open_checkpoint(tmp_path).metadata == {"format": "pt", "recipe": "x"}


def test_what_fits_one_shard_is_one_file_without_an_index(tmp_path: Path) -> None:
    assert [file.name for file in write_checkpoint(tmp_path, LAZY)] == ["diffusion_pytorch_model.safetensors"]


def test_a_tensor_above_the_limit_is_alone_in_its_shard() -> None:
    assert list(plan_files(LAZY, "sharded", max_shard_size=9).values()) == [[name] for name in TENSORS]


def test_shards_can_be_limited_by_their_number_of_tensors() -> None:
    assert [len(names) for names in plan_files(LAZY, "sharded", max_shard_tensors=2).values()] == [2, 2, 1]


def test_blocks_lie_where_lightx2v_looks_for_them(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, LAZY, "blocks")
    found = {file.name: set(load_file(file)) for file in tmp_path.iterdir()}
    assert found == {
        "non_block.safetensors": {"head.weight"},
        "block_0.safetensors": {"blocks.0.a", "blocks.0.b"},
        "block_11.safetensors": {"blocks.11.a", "vace_blocks.11.a"},
    }


@pytest.mark.parametrize("layout", ["single", "sharded", "blocks"])
def test_an_error_in_the_last_tensor_leaves_nothing_behind(tmp_path: Path, layout: str) -> None:
    def fail() -> torch.Tensor:
        raise RuntimeError("out of memory")

    broken = LAZY | {"tail": Made(torch.float32, (1,), fail)}
    with pytest.raises(RuntimeError, match="out of memory"):
        write_checkpoint(tmp_path / "new", broken, layout, max_shard_tensors=1)  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_a_second_checkpoint_replaces_the_first_and_its_stale_shards(tmp_path: Path) -> None:
    write_checkpoint(tmp_path, LAZY, "sharded", max_shard_tensors=2)
    (tmp_path / "lora.safetensors").touch()
    write_checkpoint(tmp_path, LAZY, "single", config={"dim": 8})
    assert {file.name for file in tmp_path.iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
        "lora.safetensors",
    }


def test_a_pth_does_not_bring_along_the_storage_that_a_view_was_cut_from(tmp_path: Path) -> None:
    (file,) = write_checkpoint(tmp_path, {"x": lazy(torch.rand(100_000)[:10])}, "single", suffix=".pth")
    assert file.stat().st_size < 10_000


def test_what_the_disk_cannot_hold_is_refused_beforehand(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"GB free; .* are to be written"):
        check_space(tmp_path, 10**18)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_disk_that_fills_up_is_told_with_the_file_of_which_nothing_stays(
    tmp_path: Path, suffix: Suffix, little_room: int
) -> None:
    tensors = {"fits": lazy(torch.ones(2)), "does not": lazy(torch.ones(little_room))}
    with pytest.raises(OSError, match=rf"File too large: '{tmp_path}/new/.*/{STEM}{suffix}'"):
        write_checkpoint(tmp_path / "new", tensors, "single", suffix=suffix)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_what_is_no_number_is_not_written(tmp_path: Path, suffix: Suffix) -> None:
    spoilt = {**LAZY, "blocks.11.b": lazy(torch.tensor([1.0, float("nan")]))}
    with pytest.raises(ExportError, match=r"blocks\.11\.b would be written with NaN or infinity"):
        write_checkpoint(tmp_path / "new", spoilt, suffix=suffix)
    assert not (tmp_path / "new").exists()


def test_a_figure_that_json_has_no_word_for_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"a\.json would hold NaN or infinity as layers\.q\[1\]"):
        write_json(tmp_path / "a.json", {"layers": {"q": [1.0, float("inf")]}})
    assert list(tmp_path.iterdir()) == []
