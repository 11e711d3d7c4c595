"""What is written passes every rule."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from llmc.__main__ import main
from llmc.verify.run import verify
from llmc.verify.verdict import Report
from tests.export.shipped import SHIPPED
from tests.verify.conftest import Make


def not_passed(report: Report) -> dict[str, str]:
    return {v.rule: f"{v.status}: {'; '.join(v.problems)}{v.note}" for v in report.verdicts if v.status != "pass"}


@pytest.mark.parametrize("scheme", SHIPPED)
def test_every_scheme_passes_every_rule(exported: Make, scheme: str) -> None:
    made = exported(scheme)
    report = verify(made.folder, against=made.run)
    assert not_passed(report) == {} and report.passed
    assert "24 weights are the judged ones, bit for bit" in {v.note for v in report.verdicts}


def test_block_files_pass(exported: Make) -> None:
    made = exported("int8-vllm", layout="blocks")
    report = verify(made.folder, against=made.run)
    assert not_passed(report) == {}
    assert "2 block files" in {v.note for v in report.verdicts}


def test_diffusers_names_pass_and_have_no_runtime_yet(exported: Make) -> None:
    made = exported("fp8-vllm", native_names=False)
    report = verify(made.folder, against=made.run)
    assert not_passed(report) == {} and report.passed
    assert next(v.note for v in report.verdicts if v.rule == "runtime JSON").startswith("in diffusers' names")


OF_THE_MODEL = ["against the float model", "floats against the model"]
OF_THE_RUN = ["runtime settings", "network settings", "against the judged weights", "against the judged tensors",
              "input arithmetic", "witness"]  # fmt: skip


def test_what_only_run_and_float_model_prove_is_not_checked_without_them(exported: Make) -> None:
    made = exported("mxfp8")
    alone, with_model = verify(made.folder), verify(made.folder, float_model=made.model)
    assert sorted(not_passed(alone)) == sorted([*OF_THE_MODEL, *OF_THE_RUN])
    assert sorted(not_passed(with_model)) == sorted(OF_THE_RUN)
    assert not alone.failed and not alone.passed and alone.exit_code == with_model.exit_code == 3
    assert alone.summary().splitlines() == [
        "passed, 8 rules not checked",
        "  give --against RUN, the folder of the run that wrote it",
        "  give --float MODEL, the folder of the float model",
    ]
    assert "--float" not in with_model.summary()


def test_a_run_of_an_older_version_proves_weights_alone(exported: Make, tmp_path: Path) -> None:
    made = exported("int8-vllm")
    for name in ("weights.json", "config.json"):
        shutil.copy(made.run / name, tmp_path / name)
    report = verify(made.folder, against=tmp_path)
    left = sorted(set(OF_THE_RUN) - {"against the judged weights"})
    assert sorted(not_passed(report)) == left and report.exit_code == 3


def test_the_scheme_is_told_from_the_tensors_where_nothing_names_it(exported: Make, tmp_path: Path) -> None:
    for scheme in SHIPPED:
        copy = exported(scheme).copied(tmp_path / scheme)
        next(copy.glob("lightx2v_*.json")).unlink()
        report = verify(copy, float_model=exported(scheme).model)
        assert not report.failed and "runtime JSON" in not_passed(report), not_passed(report)
        assert "lightx2v_<scheme>.json" in report.summary()


def test_two_experts_are_verified_each_in_its_folder(exported: Make, tmp_path: Path) -> None:
    made = exported("int8-vllm")
    for expert in ("high_noise_model", "low_noise_model"):
        shutil.copytree(made.folder, tmp_path / expert, ignore=shutil.ignore_patterns("*.md", "lightx2v_*", "llmc_*"))
    runtime = json.loads((made.folder / "lightx2v_int8-vllm.json").read_text())
    del runtime["dit_quantized_ckpt"]
    runtime |= {"boundary": 0.9, "high_noise_quantized_ckpt": str(tmp_path / "high_noise_model")}
    path = tmp_path / "lightx2v_int8-vllm.json"
    path.write_text(json.dumps(runtime))
    failed = [v for v in verify(tmp_path).verdicts if v.status == "fail"]
    assert [(v.rule, v.problems) for v in failed] == [
        (
            "runtime JSON",
            (f"{path.name}: it lacks low_noise_quantized_ckpt, so that LightX2V would not find the weights",),
        )
    ]
    path.write_text(json.dumps(runtime | {"low_noise_quantized_ckpt": str(tmp_path / "low_noise_model")}))
    report = verify(tmp_path)
    assert not report.failed and {v.folder for v in report.verdicts} == {"", "high_noise_model", "low_noise_model"}
    file = tmp_path / "low_noise_model" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    save_file({name: tensor for name, tensor in tensors.items() if ".affine_norm" not in name}, file)
    failed = [v for v in verify(tmp_path).verdicts if v.status == "fail"]
    assert [(v.folder, v.rule) for v in failed] == [("low_noise_model", "quant_method")]


def test_the_command_passes_with_0_fails_with_1_refuses_with_2_and_leaves_open_with_3(
    exported: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = exported("int8-vllm")
    capsys.readouterr()
    assert main(["verify", str(made.folder), "--against", str(made.run)]) == 0
    shown = capsys.readouterr().out
    assert "against the judged weights" in shown and shown.endswith("passed\n")
    copy = made.copied(tmp_path / "copy")
    (copy / "config.json").unlink()
    assert main(["verify", str(made.folder)]) == 3
    assert "passed, 8 rules not checked\n  give --against RUN" in capsys.readouterr().out
    assert main(["verify", str(copy), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is False and report["failed"] is True and report["target"] == "lightx2v"
    failed = [rule for rule in report["rules"] if rule["status"] == "fail"]
    assert [rule["problems"] for rule in failed] == [["there is no config.json that can be read"]]
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / "notes.txt").touch()
    for wrong, says in (
        ([str(tmp_path / "nowhere")], "does not exist"),
        ([str(made.model)], "is no export that can be verified"),
        ([str(made.folder), "--against", str(made.model)], "has no weights.json"),
        ([str(made.folder), "--float", str(made.model / "model_index.json")], "is no folder"),
        ([str(made.folder), "--float", str(empty)], "holds no weights (found: notes.txt); safetensors are looked for"),
    ):
        assert main(["verify", *wrong]) == 2
        assert says in capsys.readouterr().err
