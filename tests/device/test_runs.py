"""Whole runs on the pretended device: every position that is judged, every target, every recipe that ships."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from llmc.__main__ import main
from llmc.calib.teacher import every_error, teacher_forced_errors
from llmc.compat.load import load_document
from llmc.config.save import exporters, switch_of
from llmc.errors import UnsupportedSpec
from llmc.judging.positions import MODES, in_position
from llmc.numerics.spec import LayerSpec, TensorSpec
from llmc.verify.run import verify
from tests.configs.test_recipes_run import RECIPES, SERVED, cases, changed, save_model
from tests.device.conftest import Tiny
from tests.device.pretended import NAME, Pretended
from tests.end_to_end.small_run import small_config
from tests.slices import by_default
from tests.tiny_pipelines import save_samples

TARGETS = {switch_of(exporter) for exporter in exporters().values()}


def grids(kind: str, method: str) -> dict[str, Any]:
    """Weights for each channel and acts for each token, in int8 or fp8."""
    form: dict[str, Any] = {"bit": 8} if kind == "int8" else {"quant_type": "float-quant", "bit": "e4m3"}
    weight, act = {**form, "granularity": "per_channel"}, {**form, "granularity": "per_token"}
    return {"video_gen": {"method": {"name": method}, "weight": weight, "act": act}}


def results(config: Path) -> dict[str, Any]:
    """Of a run, which must end well."""
    assert main(["run", "--config", str(config)]) == 0
    found: dict[str, Any] = json.loads((config.parent / "run" / "results.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.slow
def test_every_position_is_judged(pretended: Pretended, tmp_path: Path) -> None:
    positions = {"eval_pos": [position for position in MODES if position != "baseline"]}
    changes = {"quant": grids("fp8", "SmoothQuant"), "eval": positions, "save": None}
    metrics = results(small_config(tmp_path, base={"device": NAME}, **changes))["metrics"]
    assert pretended.counts["mm"] > 0
    errors = {position: found["teacher_forced_error"] for position, found in metrics.items()}
    assert errors.keys() == MODES.keys() - {"pretrain"} | {"float"}
    assert errors.pop("float") == 0 and errors.pop("transformed") < 1e-9
    assert all(0 < error < 0.05 for error in errors.values())


@torch.no_grad()
@pytest.mark.parametrize("position", MODES)
def test_a_position_computes_on_the_device(pretended: Pretended, tiny: Tiny, position: str) -> None:
    fp8 = LayerSpec(weight=TensorSpec(format="fp8_e4m3", granularity="per_channel"),
                    act=TensorSpec(format="fp8_e4m3", granularity="per_token"))  # fmt: skip
    _, network, calls = tiny.load(pretended.device, fp8)
    for layer in network.layers.values():
        layer.round()
    with in_position([network], position):
        errors = every_error(teacher_forced_errors(network.part, calls, pretended.device))
    if position in ("pretrain", "transformed"):
        assert max(errors) < 1e-9
    else:
        assert min(errors) > 0 and max(errors) < 0.05


@torch.no_grad()
def test_real_int8_is_refused_where_no_product_of_the_device_is_known(pretended: Pretended, tiny: Tiny) -> None:
    int8 = LayerSpec(weight=TensorSpec(format="int8", granularity="per_channel"),
                     act=TensorSpec(format="int8", granularity="per_token"))  # fmt: skip
    _, network, calls = tiny.load(pretended.device, int8)
    for layer in network.layers.values():
        layer.round()
    refused = pytest.raises(UnsupportedSpec, match="runs on cpu and cuda; the model is on npu")
    with in_position([network], "real_quant"), refused:
        teacher_forced_errors(network.part, calls, pretended.device)


@pytest.mark.parametrize("target", by_default({"save_mindie"}, sorted(TARGETS)))
def test_a_target_is_written_and_passes_every_rule(target: str, pretended: Pretended, tmp_path: Path) -> None:
    save = {"save_lightx2v": False, target: True}
    config = small_config(tmp_path, base={"device": NAME}, eval=None, quant=grids("int8", "SmoothQuant"), save=save)
    checkpoint = Path(results(config)["checkpoint"])
    assert pretended.counts["mm"] > 0 and list(checkpoint.rglob("*.safetensors"))
    if target.removeprefix("save_") in SERVED:
        report = verify(checkpoint, against=tmp_path / "run")
        assert [verdict for verdict in report.verdicts if verdict.status == "fail"] == []


@pytest.mark.slow
@pytest.mark.parametrize(("name", "variant"), [case.values for case in cases()], ids=[case.id for case in cases()])
def test_a_recipe_that_ships_runs(name: str, variant: str, pretended: Pretended, tmp_path: Path) -> None:
    written = load_document(RECIPES[name]).values
    save_model(name, variant, written["model"]["type"], tmp_path / "model")
    save_samples(tmp_path / "samples", 1)
    changes = changed(name, written, tmp_path) | {"base.device": NAME}
    options = [option for key, value in changes.items() for option in ("--set", f"{key}={value}")]
    assert main(["run", "--config", str(RECIPES[name]), *options]) == 0
    assert pretended.counts["mm"] > 0
    found = json.loads((tmp_path / "run" / "results.json").read_text(encoding="utf-8"))
    assert 0 < found["metrics"]["fake_quant"]["teacher_forced_error"] < 0.05
