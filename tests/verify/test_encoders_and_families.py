"""LightX2V's encoders, and the families beside Wan: what is written passes, and faults are named by their rule."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from llmc.__main__ import main
from llmc.verify.run import verify
from tests.end_to_end.small_run import small_config
from tests.end_to_end.test_families import family_config
from tests.verify.conftest import Exported
from tests.verify.test_plain_targets import FOLLOW, FP8, ROWS, checkpoint, not_passed

Tensors = dict[str, torch.Tensor]
INT8 = {"weight": {"bit": 8}, "act": {"bit": 8}}
ENCODER = {"method": {"name": "SmoothQuant", "alpha": 0.5, "gate": False}, **INT8}
T5, CLIP = "models_t5_umt5-xxl-enc", "models_clip_open-clip-xlm-roberta-large-vit-huge-14"


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    out = tmp_path_factory.mktemp("encoders")
    fp8 = {"weight": {"bit": "e4m3"}, "act": {"bit": "e4m3"}}
    quant = {"text_encoder": ENCODER, "image_encoder": {**ENCODER, **fp8}}
    config = small_config(out, eval=None, quant=quant, save={"native_names": True})
    assert main(["run", "--config", str(config)]) == 0
    return Exported(out / "export", out / "run", out / "model")


def test_encoders_pass_every_rule(encoders: Exported) -> None:
    report = verify(encoders.folder, against=encoders.run)
    own = {(v.folder, v.rule): v for v in report.verdicts if v.folder}
    assert {folder for folder, _ in own} == {f"int8/{T5}-int8.pth", f"fp8/{CLIP}-fp8.pth"}
    assert not_passed(report) == {}
    assert own[f"int8/{T5}-int8.pth", "against the judged weights"].note.startswith("14 weights")
    assert own[f"fp8/{CLIP}-fp8.pth", "against the judged weights"].note.startswith("18 weights")
    # a run that read an encoder from elsewhere leaves nothing here to hold it against
    run = encoders.run.parent / "other"
    shutil.copytree(encoders.run, run, ignore=shutil.ignore_patterns("float-*"))
    config = json.loads((run / "config.json").read_text())
    config["model"]["text_encoder"] = "/elsewhere.pth"
    (run / "config.json").write_text(json.dumps(config))
    assert "another checkpoint" in not_passed(verify(encoders.folder, against=run))["against the float model"]


def turned(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: tensors[name].t().contiguous()})


Q, QKV = "blocks.0.attn.q", "visual.transformer.0.attn.to_qkv"
ENCODER_FAULTS: dict[str, tuple[str, Callable[[Tensors], object], dict[str, str]]] = {
    "a scale lost": (T5, lambda t: t.pop(f"{Q}.weight_scale"), {"names": f"{Q}.weight_scale is missing"}),
    "a name of nobody": (CLIP, lambda t: t.update(strange=torch.zeros(1)), {"names": "strange is read by nobody"}),
    "what a size is told from": (
        T5, lambda t: t.pop("blocks.0.ffn.fc1.weight"), {"sizes": "those of blocks.0.ffn.fc1.weight"}),
    "a bias of another type": (
        CLIP, lambda t: t.update({f"{QKV}.bias": t[f"{QKV}.bias"].float()}),
        {"one type": f"{QKV}.bias is not float16"}),
    "scales without their second dimension": (
        T5, lambda t: t.update({f"{Q}.weight_scale": t[f"{Q}.weight_scale"].flatten()}),
        {"types, shapes": "it must be float32 [32, 1]"}),
    "a weight turned": (T5, turned(f"{Q}.weight"), {"against the judged weights": "it is transposed"}),
    "q and k change places": (
        CLIP, lambda t: t.update({f"{QKV}.weight": torch.cat([t[f"{QKV}.weight"].view(torch.uint8)[i * 32 : i * 32 + 32]
                                                             for i in (1, 0, 2)]).view(torch.float8_e4m3fn)}),
        {"against the float model": "away from the float model", "against the judged weights": "is not the weight"}),
    "one code changed": (
        T5, lambda t: t[f"{Q}.weight"][0, :1].neg_(), {"against the judged weights": "is not the weight"}),
}  # fmt: skip


@pytest.mark.parametrize("fault", ENCODER_FAULTS)
def test_a_fault_of_an_encoder_is_named_by_its_rule(encoders: Exported, tmp_path: Path, fault: str) -> None:
    stem, change, expected = ENCODER_FAULTS[fault]
    copy = tmp_path / "copy"
    shutil.copytree(encoders.folder, copy)
    (copy / "llmc_manifest.json").unlink()
    (file,) = copy.glob(f"*/{stem}*")
    tensors = torch.load(file, weights_only=True)
    change(tensors)
    torch.save(tensors, file)
    report = verify(copy, against=encoders.run)
    found = {v.rule: "; ".join(v.problems) for v in report.verdicts if v.folder and v.status == "fail"}
    assert all(says in found.get(rule, "") for rule, says in expected.items()), found
    assert found.keys() - expected.keys() <= FOLLOW | {"runtime JSON"}


def test_an_encoder_that_is_cut_off_or_that_nobody_names_is_named(encoders: Exported, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(encoders.folder, copy)
    (file,) = copy.glob(f"*/{T5}*")
    file.write_bytes(file.read_bytes()[:-2000])
    (runtime,) = copy.glob("lightx2v_*.json")
    runtime.write_text(json.dumps(json.loads(runtime.read_text()) | {"clip_quant_scheme": "int8-vllm"}))
    failed = {f"{v.folder}: {v.rule}": "; ".join(v.problems) for v in verify(copy).verdicts if v.status == "fail"}
    assert "cannot be read" in failed[f"int8/{T5}-int8.pth: files whole"]
    assert "is fp8" in failed[f"fp8/{CLIP}-fp8.pth: runtime JSON"]


@pytest.mark.parametrize("family", ["WanT2V", "WanVACE"])
def test_networks_without_images_pass_in_native_names(tmp_path: Path, family: str) -> None:
    """Nothing of images is asked for; the blocks that carry VACE's condition are smoothed as the others."""
    config = small_config(tmp_path, 1, family, eval=None, save={"native_names": True})
    assert main(["run", "--config", str(config)]) == 0
    assert not_passed(verify(tmp_path / "export", against=tmp_path / "run")) == {}


FAMILIES = {  # family and form -> target, grids
    "Flux comfyui int8": INT8, "SD3 comfyui int8": INT8, "HunyuanVideo comfyui int8": INT8,
    "Flux comfyui fp8": {"weight": FP8, "act": {**FP8, "static": True}},
    "SD3 comfyui fp8": {"weight": FP8, "act": None},
    "HunyuanVideo comfyui fp8": {"weight": FP8, "act": {**FP8, "static": True}},
    "Flux diffusers int8": INT8, "SD3 diffusers int8": INT8, "HunyuanVideo diffusers int8": INT8,
    "Flux diffusers fp8": {"weight": ROWS, "act": {"bit": "e4m3"}},
    "SD3 diffusers fp8": {"weight": ROWS, "act": {"bit": "e4m3"}},
}  # fmt: skip
Make = Callable[[str], Exported]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    done: dict[str, Exported] = {}

    def make(form: str) -> Exported:
        if form not in done:
            out, (family, target, _) = tmp_path_factory.mktemp("family"), form.split()
            path = family_config(out, family, **FAMILIES[form])
            config: dict[str, Any] = yaml.safe_load(path.read_text())
            config["save"] = {f"save_{target}": True, "save_path": str(out / "export")}
            del config["eval"]
            path.write_text(yaml.safe_dump(config))
            assert main(["run", "--config", str(path)]) == 0
            done[form] = Exported(out / "export" / target, out / "run", out / "model")
        return done[form]

    return make


@pytest.mark.parametrize("form", FAMILIES)
def test_what_is_written_of_a_family_passes_every_rule(made: Make, form: str) -> None:
    exported = made(form)
    report = verify(exported.folder, against=exported.run)
    assert report.target == form.split()[1] and not_passed(report) == {}
    layers = {"Flux": 2 * 8 + 2 * 5 + 8, "HunyuanVideo": 34, "SD3": 37}[form.split()[0]]
    assert f"{layers} weights are the judged ones, bit for bit" in {v.note for v in report.verdicts}


Change = Callable[[Tensors], object]
LINEAR1 = "single_blocks.0.linear1"
FAMILY_FAULTS: dict[str, tuple[str, Change, dict[str, str]]] = {
    "a fused layer cut": (
        "Flux comfyui int8", lambda t: t.update({f"{LINEAR1}.weight": t[f"{LINEAR1}.weight"][:-64].contiguous()}),
        {"types, shapes": f"{LINEAR1}.weight is int8 [384, 64]"}),
    "k and v change places": (
        "HunyuanVideo comfyui int8", lambda t: t.update({
            f"{LINEAR1}.{leaf}": torch.cat([t[f"{LINEAR1}.{leaf}"][i:j] for i, j in ((0, 64), (128, 192), (64, 128),
                                                                                    (192, 448))])
            for leaf in ("weight", "weight_scale")}),
        {"against the float model": "away from the float model", "against the judged weights": "is not the weight"}),
    "a name of diffusers": (
        "SD3 comfyui int8", lambda t: t.update({"proj_out.weight": t.pop("final_layer.linear.weight")}),
        {"names": "final_layer.linear.weight is missing\nproj_out.weight is read by nobody"}),
    "no scale of the input": (
        "HunyuanVideo comfyui fp8", lambda t: t.pop("double_blocks.1.txt_mlp.fc2.input_scale"),
        {"descriptions": "rounded at a scale of 1"}),
    "a norm lost": (
        "SD3 diffusers int8", lambda t: t.pop("transformer_blocks.1.attn.norm_q.weight"),
        {"names": "transformer_blocks.1.attn.norm_q.weight is missing"}),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAMILY_FAULTS)
def test_a_fault_of_a_family_is_named_by_its_rule(made: Make, tmp_path: Path, fault: str) -> None:
    form, change, expected = FAMILY_FAULTS[fault]
    copy = tmp_path / "copy"
    shutil.copytree(made(form).folder, copy)
    (copy / "llmc_manifest.json").unlink()
    file = checkpoint(copy)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata)
    report = verify(copy, against=made(form).run)
    found = {v.rule: "\n".join(v.problems) for v in report.verdicts if v.status == "fail"}
    assert all(says in found.get(rule, "") for rule, says in expected.items()), found
    assert found.keys() - expected.keys() <= FOLLOW


def test_a_family_that_is_not_known_says_so(made: Make, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(made("Flux diffusers int8").folder, copy)
    tensors, file = load_file(checkpoint(copy)), checkpoint(copy)
    save_file({f"other.{name}": tensor for name, tensor in tensors.items()}, file)
    config = json.loads((copy / "transformer" / "config.json").read_text())
    (copy / "transformer" / "config.json").write_text(json.dumps(config | {"_class_name": "OtherTransformer"}))
    assert "no family is known whose network is a OtherTransformer" in not_passed(verify(copy))["sizes"]
