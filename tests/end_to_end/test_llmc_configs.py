"""Every configuration for video models that LLMC ships runs on a tiny pipeline, with paths and sizes changed alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmc.__main__ import main
from llmc.config.document import read_document
from llmc.verify.run import verify
from tests.tiny_pipelines import TINY, save_samples

GOLDEN = Path(__file__).parents[1] / "golden" / "llmc_configs"
CONFIGS = {f"{path.parent.name}/{path.stem}": path for path in sorted(GOLDEN.rglob("*.yaml"))}
# in the default suite: a LoRA in shards and no calibration; two experts, scaled and clipped, without an export
SLICE = {"wan_i2v/rtn_w_a_lora", "wan2_2_t2v/awq_w_a"}
WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in SLICE else [pytest.mark.slow]) for name in CONFIGS]
)
def test_a_configuration_of_llmc_runs(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = read_document(CONFIGS[name]).values
    family = written["model"]["type"]
    TINY[family][0](tmp_path / "model")
    save_samples(tmp_path / "samples", 1)
    changes = changed(written, tmp_path)
    options = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
    assert main(["run", "--config", str(CONFIGS[name]), "--json", *options]) == 0
    summary = json.loads(capsys.readouterr().out.splitlines()[-1])
    log = (tmp_path / "run" / "run.log").read_text(encoding="utf-8")
    judged = set(written["eval"]["eval_pos"])
    assert summary["metrics"].keys() == ({"float", "baseline", *judged} if judged else set())
    if judged:
        assert 0 < summary["metrics"]["fake_quant"]["teacher_forced_error"] < 0.01
    else:
        assert "note: eval.eval_pos is empty" in log
        layers = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))["layers"]
        assert len(layers) == 2 * 20 and all(0 < layer["error"] < 0.2 for layer in layers)
    assert ("merging lora into 2 modules" in log) == ("lora_path" in written["model"])
    if summary["checkpoint"] is None:
        assert changes["save.save_lightx2v"] is False and not (tmp_path / "export").exists()
    else:
        report = verify(Path(summary["checkpoint"]), against=tmp_path / "run")
        assert [verdict for verdict in report.verdicts if verdict.status == "fail"] == []


def changed(written: dict[str, dict[str, object]], folder: Path) -> dict[str, object]:
    """Where things are, how large they are, and no export that LightX2V could not read."""
    changes: dict[str, object] = {
        "base.run_dir": folder / "run", "base.device": "cpu", "model.path": folder / "model",
        "save.save_path": folder / "export", "eval.output_video_path": folder / "videos", "eval.steps": 2,
        "eval.metrics": "[psnr]",
    }  # fmt: skip
    sizes = {"path": folder / "samples", "target_height": 32, "target_width": 32, "num_frames": 5}
    sections = [section for section in ("calib", "eval") if section in written]
    for section in sections:
        changes |= {f"{section}.{key}": value for key, value in sizes.items()}
    if "calib" in written:
        changes["calib.sample_steps"] = 2
    if "lora_path" in written["model"]:
        changes["model.lora_path"] = save_lora(folder / "model", folder / "lora")
    if written["quant"]["video_gen"]["weight"]["bit"] in (4, 6):  # type: ignore[index]
        changes["save.save_lightx2v"] = False
    return changes


def save_lora(model: Path, folder: Path) -> Path:
    """A LoRA for every self-attention query, laid out as LLMC reads one: in shards, with an index."""
    folder.mkdir()
    owner = {}
    for name, weight in load_file(model / WEIGHTS).items():
        if name.endswith("attn1.to_q.weight"):
            module = name.removesuffix(".weight")
            tensors = {f"{module}.lora_A.weight": torch.full((2, weight.shape[1]), 0.01),
                       f"{module}.lora_B.weight": torch.full((weight.shape[0], 2), 0.01)}  # fmt: skip
            file = f"{module}.safetensors"
            save_file(tensors, folder / file)
            owner |= dict.fromkeys(tensors, file)
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": owner}), encoding="utf-8")
    return folder
