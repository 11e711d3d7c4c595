"""msModelSlim's published example, in every way in which it can be run, on the embedded model: the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from llmc.__main__ import main
from llmc.verify.run import verify
from tests.models.test_wan_release import save_release, with_released_sizes
from tests.tiny_pipelines import TINY

ROOT = Path(__file__).parents[2]
SEED = str(ROOT / "tests" / "golden" / "wan2_1_w8a8_dynamic.yaml")
MODEL = str(ROOT / "assets" / "tiny_wan_i2v")
WEIGHTS = "quant_model_weight_w8a8_dynamic.safetensors"


def files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_way_to_run_the_published_example_writes_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beside = ["--model_path", MODEL, "--device", "cpu"]

    def places(name: str) -> list[str]:
        return ["--save_path", str(tmp_path / name), "--set", f"base.run_dir={tmp_path / 'runs' / name}"]

    assert main(["run", "--config", SEED, *beside, *places("run")]) == 0
    one_command = ["quant", *beside, "--model_type", "Wan2_1", "--trust_remote_code", "True"]
    assert main([*one_command, "--config_path", SEED, *places("quant")]) == 0
    assert "--eval" in capsys.readouterr().out
    assert main(["check", "--translate", SEED, *beside, "--save_path", str(tmp_path / "unused")]) == 0
    printed = tmp_path / "printed.yaml"
    printed.write_text(capsys.readouterr().out, encoding="utf-8")
    assert main(["run", "--config", str(printed), *places("printed")]) == 0
    assert main([*one_command, "--config_path", str(printed), *places("printed quant")]) == 0
    assert main([*one_command, "--quant_type", "w8a8", *places("shipped")]) == 0

    written = files(tmp_path / "run")
    assert any(name.endswith(WEIGHTS) for name in written)
    for name in ("quant", "printed", "printed quant"):
        assert files(tmp_path / name) == written
    # the recipe that ships names no prompt, and is another run for that; its weights are the same
    (ours,), (theirs,) = ((tmp_path / name).rglob(WEIGHTS) for name in ("shipped", "run"))
    wanted = load_file(theirs)
    assert {key: tensor.tolist() for key, tensor in load_file(ours).items()} == {
        key: tensor.tolist() for key, tensor in wanted.items()
    }
    assert "blocks.0.self_attn.q.weight_scale" in wanted and "blocks.0.ffn.2.weight_scale" not in wanted


@pytest.mark.parametrize(("family", "model_type"), [("WanT2V", "Wan2_1"), ("Wan2T2V", "Wan2_2")])
def test_a_folder_of_the_original_release_is_quantized_as_the_guide_does(
    family: str, model_type: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    TINY[family][0](tmp_path / "model")
    save_release(with_released_sizes(family, tmp_path / "model"), tmp_path / "model", tmp_path / "release")
    for layout in ("release", "model"):
        command = ["quant", "--model_path", str(tmp_path / layout), "--save_path", str(tmp_path / f"{layout} int8"),
                   "--device", "cpu", "--model_type", model_type, "--quant_type", "w8a8", "--trust_remote_code", "True",
                   "--set", f"base.run_dir={tmp_path / f'{layout} run'}"]  # fmt: skip
        assert main(command) == 0, capsys.readouterr().err
        report = verify(tmp_path / f"{layout} int8", against=tmp_path / f"{layout} run")
        assert [v for v in report.verdicts if v.status != "pass"] == []
    folders = ["high_noise_model", "low_noise_model"] if family == "Wan2T2V" else ["."]
    for folder in folders:
        ours, theirs = (load_file(tmp_path / f"{layout} int8" / folder / WEIGHTS) for layout in ("release", "model"))
        assert ours.keys() == theirs.keys() and all(ours[name].equal(theirs[name]) for name in ours)
    if len(folders) == 2:
        export = tmp_path / "model int8"
        for name, other in ((folders[0], "aside"), (folders[1], folders[0]), ("aside", folders[1])):
            (export / name).rename(export / other)
        report = verify(export, against=tmp_path / "model run")
        failed = {(v.folder, v.rule) for v in report.verdicts if v.status == "fail"}
        rules = ("against the float model", "against the judged weights")
        assert failed >= {(folder, rule) for folder in folders for rule in rules} | {("", "files as written")}
