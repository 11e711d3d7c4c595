import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llmc.convert.checkpoint import open_checkpoint
from llmc.errors import ExportError

SHARDS = {"a.safetensors": {"x": torch.ones(2)}, "b.safetensors": {"y": torch.zeros(3, dtype=torch.int8)}}


def shards(folder: Path, index: bool = False) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file, tensors in SHARDS.items():
        save_file(tensors, folder / file, {"file": file})
    if index:
        weight_map = {name: file for file, tensors in SHARDS.items() for name in tensors}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.parametrize("index", [False, True])
def test_shards_are_one_checkpoint_with_or_without_an_index(tmp_path: Path, index: bool) -> None:
    checkpoint = open_checkpoint(shards(tmp_path, index))
    assert {name: (t.dtype, t.shape) for name, t in checkpoint.tensors.items()} == {
        "x": (torch.float32, (2,)),
        "y": (torch.int8, (3,)),
    }
    assert [name for name, _ in checkpoint.read()] == ["x", "y"]
    assert checkpoint.metadata == {"file": "a.safetensors"}


def test_one_file_is_read_alone_and_brings_the_config_beside_it(tmp_path: Path) -> None:
    shards(tmp_path)
    (tmp_path / "config.json").write_text('{"dim": 8}')
    checkpoint = open_checkpoint(tmp_path / "b.safetensors")
    assert list(checkpoint.tensors) == ["y"]
    assert checkpoint.config == {"dim": 8}


def test_an_index_decides_which_files_count(tmp_path: Path) -> None:
    shards(tmp_path, index=True)
    save_file({"x": torch.ones(5)}, tmp_path / "other.safetensors")
    assert open_checkpoint(tmp_path).tensors["x"].shape == (2,)


def test_an_index_that_names_a_missing_file_is_refused(tmp_path: Path) -> None:
    (shards(tmp_path, index=True) / "b.safetensors").unlink()
    with pytest.raises(ExportError, match=r"names b\.safetensors, not there"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "text, reason",
    [
        ('{"weight_map": {"x": ', "is no JSON: Expecting value.*; copy or download it again"),
        ("\xff", "is no JSON: 'utf-8' codec"),
        ("[1]", "holds a list, not keys with values"),
        ("{}", "has no weight_map, which says of each tensor in which file it is; .* or delete it"),
        ('{"weight_map": ["a.safetensors"]}', "has no weight_map"),
        ('{"weight_map": {"x": 3}}', "has no weight_map"),
    ],
)
def test_a_broken_index_is_named(tmp_path: Path, text: str, reason: str) -> None:
    (shards(tmp_path) / "model.safetensors.index.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ExportError, match=rf"model\.safetensors\.index\.json {reason}"):
        open_checkpoint(tmp_path)


def test_a_broken_config_is_named(tmp_path: Path) -> None:
    (shards(tmp_path) / "config.json").write_text("{")
    with pytest.raises(ExportError, match=r"config\.json is no JSON"):
        open_checkpoint(tmp_path)


def test_a_tensor_that_is_in_two_files_is_refused(tmp_path: Path) -> None:
    save_file({"x": torch.ones(5)}, shards(tmp_path) / "other.safetensors")
    with pytest.raises(ExportError, match=r"x is in a\.safetensors and in other\.safetensors"):
        open_checkpoint(tmp_path)


def test_of_a_pipeline_only_the_transformer_is_read(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    shards(tmp_path / "transformer")
    shards(tmp_path / "vae")
    assert open_checkpoint(tmp_path).folder == tmp_path / "transformer"


def test_of_a_pipeline_with_two_transformers_one_must_be_named(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    shards(tmp_path / "transformer")
    shards(tmp_path / "transformer_2")
    with pytest.raises(ExportError, match=r"holds 2 checkpoints: .*transformer, .*transformer_2"):
        open_checkpoint(tmp_path)
    assert open_checkpoint(tmp_path / "transformer_2").folder == tmp_path / "transformer_2"


def test_the_one_checkpoint_below_a_run_is_found(tmp_path: Path) -> None:
    shards(tmp_path / "run" / "export" / "lightx2v")
    shards(tmp_path / "run" / ".cache")
    assert open_checkpoint(tmp_path / "run").folder == tmp_path / "run" / "export" / "lightx2v"


def test_where_there_is_nothing_to_read_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    for path, message in [
        (tmp_path, "no checkpoint"),
        (tmp_path / "x", "not exist"),
        (tmp_path / "model.gguf", "must end in"),
    ]:
        with pytest.raises(ExportError, match=message):
            open_checkpoint(path)


def test_a_pickled_state_dict_is_read_and_anything_else_in_one_refused(tmp_path: Path) -> None:
    torch.save({"x": torch.arange(4.0)}, tmp_path / "model.pth")
    checkpoint = open_checkpoint(tmp_path)
    assert checkpoint.tensors["x"].shape == (4,)
    assert [tensor.tolist() for _, tensor in checkpoint.read()] == [[0, 1, 2, 3]]
    torch.save({"generator": {"x": torch.ones(2)}}, tmp_path / "nested.pth")
    with pytest.raises(ExportError, match=r"holds generator \(dict\)"):
        open_checkpoint(tmp_path / "nested.pth")
    torch.save({"x": Path("code")}, tmp_path / "code.pth")
    with pytest.raises(ExportError, match="only tensors are read"):
        open_checkpoint(tmp_path / "code.pth")
