import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmc.convert.checkpoint import open_checkpoint
from llmc.convert.converter import plan_conversion, write_conversion
from llmc.errors import ExportError
from tests.convert.tiny import KINDS, tiny_wan

SCRIPT = Path(__file__).parents[2] / "scripts" / "converter.py"
LAYOUTS: dict[str, dict[str, Any]] = {
    "single": {"layout": "single"},
    "sharded": {"layout": "sharded", "max_shard_tensors": 7},
    "blocks": {"layout": "blocks"},
    "pth": {"layout": "single", "suffix": ".pth"},
}


def same(left: Path, right: Path) -> bool:
    """The same names, dtypes, shapes and bytes."""
    a, b = dict(open_checkpoint(left).read()), dict(open_checkpoint(right).read())
    return a.keys() == b.keys() and all(a[n].dtype == b[n].dtype and torch.equal(a[n], b[n]) for n in a)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back_is_the_same_checkpoint(
    wan_folders: dict[str, Path], tmp_path: Path, kind: str, layout: str
) -> None:
    there, back = tmp_path / "there", tmp_path / "back"
    write_conversion(plan_conversion(wan_folders[kind], "backward"), there, **LAYOUTS[layout])
    write_conversion(plan_conversion(there, "forward"), back)
    assert same(wan_folders[kind], back)
    assert json.loads((back / "config.json").read_text()) == json.loads((wan_folders[kind] / "config.json").read_text())
    if layout != "pth":
        assert open_checkpoint(back).metadata == {"format": "pt", "recipe": "smooth"}


def test_every_tensor_keeps_its_bytes_under_its_new_name(wan_folders: dict[str, Path], tmp_path: Path) -> None:
    conversion = plan_conversion(wan_folders["i2v"], "backward")
    (file,) = (file for file in write_conversion(conversion, tmp_path, "single") if file.suffix == ".safetensors")
    old = load_file(wan_folders["i2v"] / "diffusion_pytorch_model.safetensors")
    new = load_file(file)
    assert len(old) == len(new)
    renamed = {old: new for (old,), new in conversion.renames()}
    for name, tensor in old.items():
        other = new[renamed[name]]
        assert other.dtype == tensor.dtype and torch.equal(other, tensor)
    assert new["blocks.1.self_attn.q.weight"].dtype == torch.int8


def test_what_diffusers_loads_after_the_way_back_is_the_same_model(tmp_path: Path) -> None:
    model = tiny_wan("flf2v")
    model.save_pretrained(tmp_path / "source")
    write_conversion(plan_conversion(tmp_path / "source", "backward"), tmp_path / "there", "blocks")
    write_conversion(plan_conversion(tmp_path / "there", "forward"), tmp_path / "back", max_shard_tensors=20)
    again = type(model).from_pretrained(tmp_path / "back")
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_planning_reads_no_tensor(wan_folders: dict[str, Path], tmp_path: Path) -> None:
    source = tmp_path / "source.safetensors"
    source.write_bytes((wan_folders["t2v"] / "diffusion_pytorch_model.safetensors").read_bytes())
    conversion = plan_conversion(source, "backward")
    source.unlink()
    assert len(conversion.tensors) == len(conversion.source.tensors)
    with pytest.raises(FileNotFoundError):
        next(conversion.source.read())


def test_an_unknown_name_is_refused_and_named(tmp_path: Path) -> None:
    save_file(
        {"proj_out.weight": torch.ones(2), "audio_adapter.0.to_q.weight": torch.ones(2)}, tmp_path / "x.safetensors"
    )
    with pytest.raises(ExportError, match=r"audio_adapter\.0\.to_q\.weight"):
        plan_conversion(tmp_path, "backward")


def test_a_checkpoint_with_the_names_asked_for_is_refused(wan_folders: dict[str, Path]) -> None:
    with pytest.raises(ExportError, match="already have the names asked for"):
        plan_conversion(wan_folders["t2v"], "forward")


def test_the_source_is_never_written_over(wan_folders: dict[str, Path]) -> None:
    conversion = plan_conversion(wan_folders["t2v"], "backward")
    with pytest.raises(ExportError, match="is the folder of the source"):
        write_conversion(conversion, wan_folders["t2v"], force=True)


def test_a_folder_with_something_else_in_it_needs_force(wan_folders: dict[str, Path], tmp_path: Path) -> None:
    t2v, i2v = (plan_conversion(wan_folders[kind], "backward") for kind in ("t2v", "i2v"))
    write_conversion(t2v, tmp_path, "blocks")
    write_conversion(t2v, tmp_path, "blocks")  # the same again is no loss
    for other, layout in ((i2v, "blocks"), (t2v, "single")):
        with pytest.raises(ExportError, match=r"is not empty: block_0\.safetensors, .*--force"):
            write_conversion(other, tmp_path, layout)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match=r"holds block_0\.pth, which would stay"):
        (tmp_path / "block_0.pth").touch()
        write_conversion(i2v, tmp_path, "single", force=True)
    (tmp_path / "block_0.pth").unlink()
    write_conversion(i2v, tmp_path, "single", force=True)
    assert {file.name for file in tmp_path.iterdir()} == {"config.json", "diffusion_pytorch_model.safetensors"}


def test_the_line_of_the_documentation_works_from_any_folder(wan_folders: dict[str, Path], tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "-s", str(wan_folders["vace"]), "-o", "out", "-d", "backward"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert "written to out" in result.stdout
    assert "vace_blocks.0.after_proj.weight" in open_checkpoint(tmp_path / "out").tensors


@pytest.fixture
def converter(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """The script's main, in this process."""

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["converter.py", *map(str, arguments)])
        code: int = runpy.run_path(str(SCRIPT))["main"]()
        return code

    return run


def test_a_dry_run_prints_every_rename_and_writes_nothing(
    wan_folders: dict[str, Path], tmp_path: Path, converter: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert converter("-s", wan_folders["t2v"], "-o", tmp_path / "out", "-d", "backward", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "blocks.1.attn1.to_q.weight_scale -> blocks.1.self_attn.q.weight_scale\n" in out
    assert out.count(" -> ") == len(open_checkpoint(wan_folders["t2v"]).tensors)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "files"),
    [
        (["-b", "-o_e", ".pth"], ["block_0.pth", "block_1.pth", "config.json", "non_block.pth"]),
        (["--single_file", "-o_n", "wan"], ["config.json", "wan.safetensors"]),
        (["-c", "0"], ["config.json", "diffusion_pytorch_model.safetensors"]),
    ],
)
def test_the_options_choose_the_files(
    wan_folders: dict[str, Path], tmp_path: Path, converter: Callable[..., int], options: list[str], files: list[str]
) -> None:
    assert converter("-s", wan_folders["t2v"], "-o", tmp_path / "out", "-d", "backward", *options) == 0
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == files


def test_a_refusal_is_one_message_and_exit_code_2(
    wan_folders: dict[str, Path], tmp_path: Path, converter: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert converter("-s", wan_folders["t2v"], "-o", tmp_path / "out", "-d", "forward") == 2
    assert "already have the names" in capsys.readouterr().err
