import json
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmc.convert.checkpoint import open_checkpoint
from llmc.convert.converter import Conversion, plan_conversion, write_conversion
from llmc.convert.rename import Renamer
from llmc.errors import ExportError
from llmc.models.wan import LIGHTX2V
from tests.convert.families import FAMILIES, quantized, state
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
    with pytest.raises(ExportError, match="it is not there"):
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


@pytest.mark.parametrize("family", [name for name in FAMILIES if name not in KINDS])
def test_every_other_family_comes_back_from_files(tmp_path: Path, family: str) -> None:
    tensors = quantized(state(family), torch.int8)
    (tmp_path / "source").mkdir()
    save_file(tensors, tmp_path / "source" / "model.safetensors")
    write_conversion(
        plan_conversion(tmp_path / "source", "backward", FAMILIES[family][0]), tmp_path / "there", "blocks"
    )
    write_conversion(plan_conversion(tmp_path / "there", "forward", FAMILIES[family][0]), tmp_path / "back")
    assert same(tmp_path / "source", tmp_path / "back")


def test_published_files_of_clip_get_their_prefix_back(tmp_path: Path) -> None:
    tensors = {f"vision_model.{name}": tensor for name, tensor in state("clip").items()}
    (tmp_path / "source").mkdir()
    save_file(tensors, tmp_path / "source" / "model.safetensors")
    write_conversion(plan_conversion(tmp_path / "source", "backward", "wan_clip"), tmp_path / "there")
    write_conversion(plan_conversion(tmp_path / "there", "forward", "wan_clip"), tmp_path / "back")
    assert same(tmp_path / "source", tmp_path / "back")


def test_the_model_type_says_which_network_of_a_pipeline_is_read(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    for folder, family in (("transformer", "t2v"), ("text_encoder", "umt5"), ("image_encoder", "clip")):
        (tmp_path / folder).mkdir()
        save_file(state(family), tmp_path / folder / "model.safetensors")
    found = {
        name: set(plan_conversion(tmp_path, "backward", name).tensors) for name in ("wan_dit", "wan_t5", "wan_clip")
    }
    assert {"head.head.weight"} <= found["wan_dit"]
    assert {"token_embedding.weight", "blocks.1.ffn.gate.0.weight"} <= found["wan_t5"]
    assert {"visual.transformer.1.attn.to_qkv.weight"} <= found["wan_clip"]


def test_tensors_under_module_are_those_of_the_file(tmp_path: Path) -> None:
    hunyuan = plan_conversion_of(tmp_path, state("hunyuan"), "backward", "hunyuan_dit")
    torch.save({"module": {name: tensor.make() for name, tensor in hunyuan.tensors.items()}}, tmp_path / "model.pt")
    again = plan_conversion(tmp_path / "model.pt", "forward", "hunyuan_dit")
    assert {name: tensor.shape for name, tensor in again.tensors.items()} == {
        name: tuple(tensor.shape) for name, tensor in state("hunyuan").items()
    }


def plan_conversion_of(folder: Path, tensors: dict[str, torch.Tensor], *options: Any) -> Conversion:
    """The plan for tensors of a test."""
    save_file(tensors, folder / "source.safetensors")
    return plan_conversion(folder / "source.safetensors", *options)


def test_animate_s_config_is_that_of_its_own_class_and_comes_back(tmp_path: Path) -> None:
    from diffusers import WanAnimateTransformer3DModel

    model = FAMILIES["animate"][1]()
    model.save_pretrained(tmp_path / "source")
    write_conversion(plan_conversion(tmp_path / "source", "backward"), tmp_path / "there")
    config = json.loads((tmp_path / "there" / "config.json").read_text())
    assert (config["_class_name"], config["model_type"], config["dim"]) == ("WanAnimateModel", "animate", 24)
    write_conversion(plan_conversion(tmp_path / "there", "forward"), tmp_path / "back")
    again = WanAnimateTransformer3DModel.from_pretrained(tmp_path / "back")
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def loras_of(folder: Path) -> tuple[str, torch.Tensor, list[Path]]:
    """Two LoRAs for one layer, one in each naming scheme: its weight, and what strengths of 0.5 and 2 add to it."""
    name, weight = "blocks.1.ffn.net.0.proj", torch.zeros(16, 24)
    paths = [folder / "ours.safetensors", folder / "original.safetensors"]
    for path, module in zip(paths, (name, f"diffusion_model.{Renamer(LIGHTX2V).forward(name)}"), strict=True):
        up, down = torch.rand(16, 4), torch.rand(4, 24)
        save_file({f"{module}.lora_A.weight": down, f"{module}.lora_B.weight": up}, path)
        weight += (0.5 if path == paths[0] else 2.0) * (up @ down)
    return f"{name}.weight", weight, paths


@pytest.mark.parametrize("direction", ["backward", None])
def test_loras_are_merged_in_one_command_with_or_without_new_names(
    tmp_path: Path, converter: Callable[..., int], capsys: pytest.CaptureFixture[str], direction: str | None
) -> None:
    tensors = state("t2v")
    (tmp_path / "source").mkdir()
    save_file(tensors, tmp_path / "source" / "model.safetensors")
    name, added, paths = loras_of(tmp_path)
    options = ["-d", direction] if direction else []
    options += ["--lora_path", *map(str, paths), "--lora_strength", "0.5", "2"]
    assert converter("-s", tmp_path / "source", "-o", tmp_path / "out", *options) == 0
    assert "1 with a LoRA in them" in capsys.readouterr().out
    written = dict(open_checkpoint(tmp_path / "out").read())
    names = Renamer(LIGHTX2V).forward_all(tensors) if direction else {name: name for name in tensors}
    for old, new in names.items():
        expected = tensors[old] + added if old == name else tensors[old]
        torch.testing.assert_close(written[new], expected, rtol=1e-6, atol=1e-6 if old == name else 0)


def test_as_many_strengths_as_loras_are_needed(
    tmp_path: Path, converter: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    *_, paths = loras_of(tmp_path)
    options = ["--lora_path", *map(str, paths), "--lora_strength", "1", "2", "3"]
    assert converter("-s", tmp_path, "-o", tmp_path / "out", *options) == 2
    assert "--lora_strength has 3 values for 2 LoRAs" in capsys.readouterr().err


def test_codes_are_never_quantized_again_and_floats_not_here(
    wan_folders: dict[str, Path], tmp_path: Path, converter: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert converter("-s", wan_folders["t2v"], "-o", tmp_path / "out", "-d", "backward", "--quantized") == 2
    assert "is quantized already: 4 layers hold codes, such as blocks.0.attn1.to_q" in capsys.readouterr().err
    save_file(state("t2v"), tmp_path / "float.safetensors")
    assert converter("-s", tmp_path / "float.safetensors", "-o", tmp_path / "out", "--quantized") == 2
    assert "the converter does not quantize" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_dry_run_shows_what_is_fused_made_and_left_out(
    tmp_path: Path, converter: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    save_file(state("clip"), tmp_path / "clip.safetensors")
    assert (
        converter("-s", tmp_path / "clip.safetensors", "-o", tmp_path, "-t", "wan_clip", "-d", "backward", "--dry-run")
        == 0
    )
    layer, out = "encoder.layers.0.self_attn", capsys.readouterr().out
    fused = " + ".join(f"{layer}.{name}_proj.bias" for name in "qkv")
    assert f"{fused} -> visual.transformer.0.attn.to_qkv.bias\n" in out
    assert "(made) -> visual.head\n" in out


def test_a_process_that_is_killed_while_it_writes_leaves_no_checkpoint(tmp_path: Path) -> None:
    code = """
import os, signal, sys
from pathlib import Path
from llmc.convert import converter, writer
def stop(*_): os.kill(os.getpid(), signal.SIGKILL)
writer.write_json = stop  # after the tensors, before the index
source, output = map(Path, sys.argv[1:])
converter.write_conversion(converter.plan_conversion(source, "backward"), output, max_shard_tensors=9)
"""
    (tmp_path / "source").mkdir()
    save_file(state("t2v"), tmp_path / "source" / "model.safetensors")
    command = [sys.executable, "-c", code, str(tmp_path / "source"), str(tmp_path / "out")]
    assert subprocess.run(command, cwd=SCRIPT.parents[1], check=False).returncode == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "out").glob("[!.]*")] == []
    write_conversion(plan_conversion(tmp_path / "source", "backward"), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["diffusion_pytorch_model.safetensors"]
