"""The guide's script: what its command line asks for is done, in one process and in two that share each video."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from llmc.compat.modelslim.scripted.calib_data import CalibData
from llmc.compat.modelslim.scripted.files import write_calib_data
from llmc.compat.modelslim.scripted.sample_video import sample_video
from llmc.compat.modelslim.scripted.sample_video_options import parser, read_prompts
from llmc.convert.names import Known, Names
from llmc.errors import CalibrationError, ConfigError, ExportError
from llmc.models.base import adapters
from llmc.scripted import safe_torch_load
from tests import processes
from tests.compat.modelslim.scripted import two_ranks

SCRIPT = Path(__file__).parents[4] / "scripts" / "sample_video.py"


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "calib_prompts.txt"
    path.write_text("a red circle moving left\n\na green square moving right\n", encoding="utf-8")
    path.chmod(0o640)
    return path


def words(hunyuan: Path, prompts: Path, folder: Path, *more: str) -> list[str]:
    """The guide's command line at a small size; later words go before earlier ones."""
    return [
        "--model-base", str(hunyuan), "--prompt", str(prompts), "--save-path", str(folder / "videos"),
        "--video-size", "32", "32", "--video-length", "5", "--infer-steps", "2", "--seed", "42",
        "--flow-reverse", "--ring-degree", "1", "--num-videos", "1", "--do_quant",
        "--quant_weight_save_folder", str(folder / "quant"), "--quant_dump_calib_folder", str(folder / "cache"), *more,
    ]  # fmt: skip


def run(words: list[str]) -> None:
    sample_video(parser().parse_args([*words, "--device", "cpu"]))


def exported(folder: Path, suffix: str = "") -> Iterator[tuple[dict[str, torch.Tensor], dict[str, str]]]:
    """The export's tensors and its description."""
    for weight in folder.glob(f"quant_model_weight_*{suffix}.safetensors"):
        description = weight.with_name(weight.name.replace("weight", "description")).with_suffix(".json")
        yield load_file(weight), json.loads(description.read_text(encoding="utf-8"))


def test_what_the_command_line_asks_for_is_there(hunyuan: Path, prompts: Path, tmp_path: Path) -> None:
    run(words(hunyuan, prompts, tmp_path, "--quant_type", "w8a8_dynamic", "--anti_method", "m3"))
    ((tensors, said),) = exported(tmp_path / "quant")
    assert said["model_quant_type"] == "W8A8_DYNAMIC" and tensors.keys() == said.keys() - {"model_quant_type"}
    quantized = {name.removesuffix(".linear.weight") for name, kind in said.items() if "W8A8" in kind}
    for block in ("double_blocks.0", "double_blocks.1"):
        assert f"{block}.txt_attn_qkv" in quantized and f"{block}.img_mlp.fc2" not in quantized
    assert len(safe_torch_load(tmp_path / "cache" / "calib_data.pth")) == 2 * 2  # two prompts, two steps
    assert not (tmp_path / "videos").exists()


@pytest.mark.parametrize("quant_type", ["w8a8_dynamic_fa3", pytest.param("w8a8_timestep", marks=pytest.mark.slow)])
def test_two_ranks_that_share_each_video_do_what_one_process_does(
    quant_type: str, hunyuan: Path, prompts: Path, tmp_path: Path
) -> None:
    more = ["--quant_type", quant_type, "--num-videos", "2", "--do_save_video"]
    one, two = (words(hunyuan, prompts, tmp_path / name, *more, "--device", "cpu") for name in ("one", "two"))
    run(one)
    told = tmp_path / "told.json"
    spread = [*two, "--ulysses-degree", "2", "--vae-parallel"]
    ended = processes.run([told, *spread], ranks=2, main=two_ranks.main)
    assert [rank.code for rank in ended] == [0, 0], ended

    found = json.loads(told.read_text(encoding="utf-8"))
    shares, work = zip(*((rank["tokens"], rank["tiles"]) for rank in found["ranks"]), strict=True)
    assert shares == ([14, 6] * 2, [13, 5] * 2) and work == (18, 18)
    assert all(error < 1e-5 for rank in found["ranks"] for error in rank["errors"])
    assert ["2 processes run" in text for text in found["refused"]] == [True, True]

    ((alone, said),) = exported(tmp_path / "one" / "quant")
    for rank in (0, 1):
        ((together, also_said),) = exported(tmp_path / "two" / "quant", f"_{rank}")
        assert also_said == said and together.keys() == alone.keys()
        for name, tensor in alone.items():
            assert torch.allclose(together[name].float(), tensor.float(), rtol=1e-2, atol=1e-6), name
        assert len(safe_torch_load(tmp_path / "two" / "cache" / f"calib_data_{rank}.pth")) == 2 * 2 * 2
    videos = [sorted(path.name for path in (tmp_path / name / "videos").iterdir()) for name in ("one", "two")]
    assert videos[0] == videos[1] == [f"{prompt}_seed{seed}.mp4" for prompt in (0, 1) for seed in (42, 43)]


def test_a_dump_that_is_there_is_used(hunyuan: Path, prompts: Path, tmp_path: Path) -> None:
    dynamic = words(hunyuan, prompts, tmp_path, "--quant_type", "w8a8_dynamic", "--anti_method", "m3")
    run(dynamic)
    before = (tmp_path / "cache" / "calib_data.pth").stat().st_mtime_ns
    run(dynamic)
    assert (tmp_path / "cache" / "calib_data.pth").stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"calib_data\.pth is there .* do not tell their steps.*: remove it, or name"):
        run(words(hunyuan, prompts, tmp_path))


def test_a_dump_of_other_steps_is_refused_before_the_model_is_loaded(
    hunyuan: Path, prompts: Path, tmp_path: Path
) -> None:
    by_step = words(hunyuan, prompts, tmp_path)
    run(by_step)
    with pytest.raises(ConfigError, match=r"calib_data\.pth is there .* of 2 steps, and --infer-steps is 4: remove it"):
        run([*by_step, "--infer-steps", "4", "--dit-weight", str(prompts)])  # which no model could be loaded from


def test_a_dump_of_another_model_is_named_with_its_file(hunyuan: Path, prompts: Path, tmp_path: Path) -> None:
    dynamic = words(hunyuan, prompts, tmp_path, "--quant_type", "w8a8_dynamic", "--anti_method", "m3")
    run(dynamic)
    file = tmp_path / "cache" / "calib_data.pth"
    calls = safe_torch_load(file)
    write_calib_data(file, CalibData(calls, {**calls.origin, "num_layers": "20"}))
    with pytest.raises(
        CalibrationError, match=r"(?s)num_layers is 20 there and 2 here.*calib_data is .*calib_data\.pth"
    ):
        run(dynamic)


def test_networks_are_read_from_where_the_command_line_says(hunyuan: Path, prompts: Path, tmp_path: Path) -> None:
    """The transformer as the release has it; the other components as diffusers and transformers keep them."""
    (part,) = adapters()["HunyuanVideo"]().skeleton(hunyuan)
    state = load_file(hunyuan / "transformer" / "diffusion_pytorch_model.safetensors")
    naming = Names(adapters()["HunyuanVideo"].original(part.module))
    original = naming.to_original({name: Known(tensor) for name, tensor in state.items()})
    released = {name: tensor.make().contiguous() for name, tensor in original.items()}
    torch.save({"module": released}, tmp_path / "mp_rank_00_model_states.pt")
    given = [
        "--dit-weight", str(tmp_path / "mp_rank_00_model_states.pt"), "--vae-path", str(hunyuan / "vae"),
        "--text-encoder-path", str(hunyuan / "text_encoder"), "--text-encoder-2-path", str(hunyuan / "text_encoder_2"),
        "--quant_type", "w8a8_dynamic",
    ]  # fmt: skip
    run(words(hunyuan, prompts, tmp_path / "given", *given))
    run(words(hunyuan, prompts, tmp_path / "own", "--quant_type", "w8a8_dynamic"))
    ((one, _),), ((other, _),) = (exported(tmp_path / name / "quant") for name in ("given", "own"))
    assert [name for name in one if not one[name].equal(other[name])] == []


def test_weights_beside_which_the_export_would_lie_are_refused_before_anything_is_loaded(
    hunyuan: Path, prompts: Path, tmp_path: Path
) -> None:
    (tmp_path / "quant").mkdir()
    (tmp_path / "quant" / "other.safetensors").touch()
    with pytest.raises(ExportError, match=r"--quant_weight_save_folder is .*, which holds other\.safetensors too"):
        run(words(hunyuan, prompts, tmp_path))
    assert not (tmp_path / "cache").exists()


def test_time_runs_upwards_without_flow_reverse(hunyuan: Path, prompts: Path, tmp_path: Path) -> None:
    up = [word for word in words(hunyuan, prompts, tmp_path) if word != "--flow-reverse"]
    run([*up, "--quant_type", "w8a8_dynamic"])
    times = [float(call[1]) for call in safe_torch_load(tmp_path / "cache" / "calib_data.pth")]
    assert times[0] < times[1] < 1000


@pytest.mark.parametrize(
    "more, reason",
    [
        (["--ring-degree", "2"], "--ring-degree is 2; .* write --ring-degree 1"),
        (["--ulysses-degree", "2"], "--ulysses-degree is 2, and 1 processes run"),
        (["--video-size", "33", "32"], "target_height is 33; it must be a multiple of 16"),
        (["--video-size", "32", "32", "5"], "give height and width"),
        (["--video-length", "6"], "HunyuanVideo makes 4k"),
        (["--seed", str(10**30)], "it is from 0 to"),
        (["--num-videos", "0"], "--num-videos is 0; it is at least 1"),
        (["--dit-weight", "missing.pt"], "--dit-weight is missing.pt, which is not there"),
        (["--device", "cuda:9"], "--device is cuda:9, but here are only: cpu"),
        (["--quant_weight_save_folder", __file__], "--quant_weight_save_folder is .*, which is a file; name a folder"),
        (["--prompt", ""], "--prompt is missing"),
    ],
)
def test_what_cannot_work_is_refused(
    more: list[str], reason: str, hunyuan: Path, prompts: Path, tmp_path: Path
) -> None:  # fmt: skip
    with pytest.raises(ConfigError, match=reason):
        sample_video(parser().parse_args(words(hunyuan, prompts, tmp_path, "--device", "cpu", *more)))
    assert not (tmp_path / "cache").exists()


def test_a_file_of_prompts_that_is_not_there_is_no_prompt(hunyuan: Path, prompts: Path, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"missing\.txt is not there"):
        run(words(hunyuan, prompts, tmp_path, "--prompt", "prompts/missing.txt"))
    prompts.write_bytes(b"caf\xe9")
    with pytest.raises(ConfigError, match="is not UTF-8 at byte 3"):
        run(words(hunyuan, prompts, tmp_path))


@pytest.mark.parametrize("mode", [0o660, 0o644, 0o641, 0o755, 0o700])
def test_prompts_in_a_file_of_a_mode_above_0o640_are_not_read(prompts: Path, mode: int) -> None:
    prompts.chmod(mode)
    with pytest.raises(CalibrationError, match=rf"has the mode {mode:#o}.* `chmod 640 .*calib_prompts\.txt`"):
        read_prompts(str(prompts))
    for allowed in (0o640, 0o600, 0o440, 0o400):
        prompts.chmod(allowed)
        assert len(read_prompts(str(prompts))) == 2


def test_the_script_says_why_it_refuses_and_exits_with_2(prompts: Path, tmp_path: Path) -> None:
    asked = words(tmp_path / "nowhere", prompts, tmp_path)
    done = subprocess.run([sys.executable, str(SCRIPT), *asked], capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: --model-base is ") and done.stderr.count("\n") == 1
