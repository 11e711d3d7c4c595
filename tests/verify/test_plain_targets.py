"""ComfyUI's and diffusers' exports: what is written passes, and each way to spoil it is named by the rule it breaks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from llmc.__main__ import main
from llmc.numerics.packing import unswizzle_scales
from llmc.verify.run import verify
from llmc.verify.verdict import Report
from tests.end_to_end.small_run import small_config
from tests.verify.conftest import Exported

Tensors = dict[str, torch.Tensor]
FP8 = {"bit": "e4m3", "granularity": "per_tensor"}
ROWS = {"bit": "e4m3", "granularity": "per_channel"}
SMOOTH = {"name": "SmoothQuant", "alpha": 0.5, "gate": False}
TURN = {"name": "Hadamard", "matrix": "regular", "gate": False}
FORMS: dict[str, dict[str, Any]] = {  # target and form -> grids, settings
    "comfyui int8": {"weight": {"bit": 8}, "act": {"bit": 8}},
    "comfyui fp8": {"weight": FP8, "act": {**FP8, "static": True}},
    "comfyui fp8 weights alone": {"weight": FP8, "act": None},
    "comfyui older": {"weight": FP8, "act": {**FP8, "static": True}, "comfy_format": "scaled_fp8"},
    "comfyui older weights alone": {"weight": FP8, "act": None, "comfy_format": "scaled_fp8"},
    "comfyui convrot": {"weight": {"bit": 8}, "act": {"bit": 8}, "method": [SMOOTH, TURN]},
    "comfyui w4a8": {"weight": {"bit": "codebook4"}, "act": {"bit": 8}, "method": [SMOOTH, TURN]},
    "comfyui w4a4": {"weight": {"bit": 4}, "act": {"bit": 4}, "method": [SMOOTH, TURN]},
    "comfyui awq": {
        "weight": {"bit": 4, "granularity": "per_group", "group_size": 32, "symmetric": False},
        "act": None,
    },
    "comfyui nvfp4": {"weight": {"bit": "nvfp4"}, "act": {"bit": "nvfp4", "static": True}},
    "comfyui mxfp8": {"weight": {"bit": "mxfp8"}, "act": {"bit": "mxfp8"}},
    "diffusers int8": {"weight": {"bit": 8}, "act": {"bit": 8}},
    "diffusers int8 weights alone": {"weight": {"bit": 8}, "act": None},
    "diffusers fp8": {"weight": ROWS, "act": {"bit": "e4m3"}},
}
FOLLOW = {"against the float model", "floats against the model", "against the judged weights", "input arithmetic",
          "against the judged tensors", "witness"}  # fmt: skip
Make = Callable[[str], Exported]


@pytest.fixture(scope="session")
def layered(tmp_path_factory: pytest.TempPathFactory) -> Make:
    made: dict[str, Exported] = {}

    def make(form: str) -> Exported:
        if form not in made:
            out, own = tmp_path_factory.mktemp("layered"), dict(FORMS[form])
            target = form.partition(" ")[0]
            grids = {name: own.pop(name) for name in ("weight", "act")}
            method = own.pop("method", SMOOTH)
            quant = {"video_gen": {"method": method, **grids, "rules": [{"match": "blocks.1.attn1.*", "skip": True}]}}
            save = {"save_lightx2v": False, f"save_{target}": True, **own}
            assert main(["run", "--config", str(small_config(out, eval=None, quant=quant, save=save))]) == 0
            made[form] = Exported(out / "export" / target, out / "run", out / "model")
        return made[form]

    return make


def not_passed(report: Report) -> dict[str, str]:
    return {v.rule: f"{v.status}: {'; '.join(v.problems)}{v.note}" for v in report.verdicts if v.status != "pass"}


def checkpoint(folder: Path) -> Path:
    return next(folder.glob("transformer/*.safetensors"), None) or next(folder.glob("*.safetensors"))


def spoiled(made: Exported, folder: Path, change: Callable[[Tensors, dict[str, str]], object]) -> dict[str, str]:
    """What fails in a copy without manifest after a change of tensors and metadata."""
    copy = folder / "copy"
    shutil.copytree(made.folder, copy)
    (copy / "llmc_manifest.json").unlink()
    file = checkpoint(copy)
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    change(tensors, metadata)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata)
    report = verify(copy, against=made.run)
    return {v.rule: "\n".join(v.problems) for v in report.verdicts if v.status == "fail"}


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_passes_every_rule(layered: Make, tmp_path: Path, form: str) -> None:
    made = layered(form)
    report = verify(made.folder, against=made.run)
    assert report.target == form.partition(" ")[0] and not_passed(report) == {}
    notes = {v.note for v in report.verdicts}
    assert {"20 weights are the judged ones, bit for bit", "20 of 24 linears in the blocks are quantized"} <= notes
    assert spoiled(made, tmp_path, lambda tensors, metadata: None) == {}  # recognized without a manifest, too
    alone = verify(made.folder)
    assert (
        alone.exit_code == 3 and {"against the float model", "against the judged weights"} <= not_passed(alone).keys()
    )


Change = Callable[[Tensors, dict[str, str]], object]
Q, HF, HFFN = "blocks.0.self_attn.q", "blocks.0.attn1.to_q", "blocks.0.ffn.net.0.proj"


def describe(name: str, text: bytes) -> Change:
    return lambda t, _: t.update({f"{name}.comfy_quant": torch.tensor(list(text), dtype=torch.uint8)})


def redescribe(name: str, **other: object) -> Change:
    def apply(t: Tensors, _: dict[str, str]) -> None:
        says = json.loads(bytes(t[f"{name}.comfy_quant"].tolist())) | other
        text = json.dumps({key: value for key, value in says.items() if value is not None}).encode()
        t[f"{name}.comfy_quant"] = torch.tensor(list(text), dtype=torch.uint8)

    return apply


def swapped(packed: torch.Tensor) -> torch.Tensor:
    bits = packed.view(torch.uint8)
    return (bits >> 4 | bits << 4).view(packed.dtype)


def unswizzled(scales: torch.Tensor) -> torch.Tensor:
    """Of 64 rows in the place of 128."""
    grid = torch.zeros_like(scales.view(torch.uint8))
    grid[:64] = unswizzle_scales(scales, 64, 4).view(torch.uint8)
    return grid.view(scales.dtype)


def tag(change: Callable[[dict[str, Any]], object]) -> Change:
    def apply(_: Tensors, metadata: dict[str, str]) -> None:
        about = json.loads(metadata[f"{HF}.weight"])
        change(about)
        metadata[f"{HF}.weight"] = json.dumps(about)

    return apply


FAULTS: dict[str, tuple[str, Change, dict[str, str]]] = {
    "a description lost": (
        "comfyui int8", lambda t, _: t.pop(f"{Q}.comfy_quant"), {"descriptions": "codes would be read as values"}),
    "another format described": (
        "comfyui int8", describe(Q, b'{"format": "float8_e4m3fn"}'), {"descriptions": f"not how {Q} is stored"}),
    "no scale of the input": (
        "comfyui fp8", lambda t, _: t.pop(f"{Q}.input_scale"), {"descriptions": "rounded at a scale of 1"}),
    "the marker of other acts": (
        "comfyui older", lambda t, _: t.update(scaled_fp8=torch.zeros(2, dtype=torch.float8_e4m3fn)),
        {"descriptions": f"{Q} has a scale_input, and the file says that weights alone are quantized"}),
    "a scale lost": (
        "comfyui int8", lambda t, _: t.pop(f"{Q}.weight_scale"), {"names": f"{Q}.weight_scale is missing"}),
    "a bias lost": ("comfyui fp8", lambda t, _: t.pop(f"{Q}.bias"), {"names": f"{Q}.bias is missing"}),
    "a rotation of another size": (
        "comfyui convrot", redescribe(Q, convrot_groupsize=16),
        {"against the float model": "it is rotated 64 at a time, and its description says otherwise"}),
    "a rotation that is not told": (
        "comfyui convrot", redescribe(Q, convrot=False),
        {"against the float model": "it is rotated 64 at a time, and its description says otherwise"}),
    "a group that no reader knows": (
        "comfyui convrot", redescribe(Q, convrot_groupsize=32), {"descriptions": "rotated 32 at a time"}),
    "smoothing that nobody reads": (
        "comfyui convrot", lambda t, _: t.update({f"{Q}.pre_quant_scale": torch.ones(64)}),
        {"descriptions": "inputs of int8_tensorwise are multiplied by nothing"}),
    "nibbles the other way round": (
        "comfyui w4a8", lambda t, _: t.update({f"{Q}.weight": swapped(t[f"{Q}.weight"])}),
        {"against the float model": "nibbles are the other way round", "against the judged weights": "nibbles"}),
    "nibbles of int4": (
        "comfyui w4a4", lambda t, _: t.update({f"{Q}.weight": swapped(t[f"{Q}.weight"])}),
        {"against the float model": "nibbles are the other way round", "against the judged weights": "nibbles"}),
    "a key that some readers ask for": (
        "comfyui w4a8", redescribe(Q, convrot=None), {"descriptions": "it has no convrot"}),
    "levels lost": (
        "comfyui w4a8", lambda t, _: t.pop(f"{Q}.weight_codebook"), {"names": f"{Q}.weight_codebook is missing"}),
    "scales of rows in two dimensions": (
        "comfyui w4a4", lambda t, _: t.update({f"{Q}.weight_scale": t[f"{Q}.weight_scale"][:, None]}),
        {"types, shapes": f"{Q}.weight_scale is float32 [64, 1]; it must be float32 [64]"}),
    "scales by row": (
        "comfyui awq", lambda t, _: t.update({f"{Q}.weight_scale": t[f"{Q}.weight_scale"].t()}),
        {"types, shapes": f"{Q}.weight_scale is float32 [64, 2]"}),
    "scales as they come": (
        "comfyui nvfp4", lambda t, _: t.update({f"{Q}.weight_scale": unswizzled(t[f"{Q}.weight_scale"])}),
        {"against the float model": "its scales are not swizzled", "against the judged weights": "not swizzled"}),
    "a name of nobody": (
        "diffusers int8", lambda t, _: t.update(strange=torch.zeros(1)), {"names": "strange is read by nobody"}),
    "a weight turned": (
        "comfyui int8", lambda t, _: t.update({f"{Q}.weight": t[f"{Q}.weight"].t()}),
        {"against the float model": "it is transposed", "against the judged weights": "it is transposed"}),
    "a scale of another size": (
        "diffusers int8", lambda t, _: t.update({f"{HF}._weight_scale": torch.ones(3, 1)}),
        {"types, shapes": f"{HF}._weight_scale is float32 [3, 1]; it must be float32 [64, 1]"}),
    "one code changed": (
        "diffusers int8", lambda t, _: t[f"{HF}._weight_qdata"][0, :1].neg_(),
        {"against the judged weights": "is not the weight that was judged"}),
    "a negative scale": (
        "diffusers fp8", lambda t, _: t[f"{HF}._weight_scale"][:1].neg_(),
        {"scale values": "scales that are not positive", "against the judged weights": "not the weight"}),
    "smoothing lost": (
        "diffusers int8", lambda t, _: t.pop(f"{HFFN}._weight_act_pre_scale"),
        {"tensor classes": "'act_pre_scale'], and ['qdata', 'scale'] are stored"}),
    "another class": (
        "diffusers int8", tag(lambda about: about.update(_type="Float8Tensor")),
        {"tensor classes": "is stored as Int8Tensor; the metadata says Float8Tensor"}),
    "acts float": (
        "diffusers int8", tag(lambda about: about["_data"].update(act_quant_kwargs=None)),
        {"tensor classes": "Int8Tensor with float activations, unlike config.json"}),
    "another block": (
        "diffusers fp8", tag(lambda about: about["_data"].update(block_size=[1, 8])),
        {"tensor classes": "block_size is [1, 8]; a scale is for [1, 64]"}),
    "a name not listed": (
        "diffusers int8", lambda _, m: m.update(tensor_names=json.dumps(json.loads(m["tensor_names"])[1:])),
        {"tensor classes": "not among the metadata's tensor_names"}),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_by_its_rule(layered: Make, tmp_path: Path, fault: str) -> None:
    form, change, expected = FAULTS[fault]
    found = spoiled(layered(form), tmp_path, change)
    assert all(says in found.get(rule, "") for rule, says in expected.items()), found
    assert found.keys() - expected.keys() <= FOLLOW


@pytest.mark.parametrize("form", ["comfyui int8", "diffusers int8"])
def test_a_file_that_is_cut_off_or_changed_is_named(layered: Make, tmp_path: Path, form: str) -> None:
    shutil.copytree(layered(form).folder, tmp_path / "copy")
    file = checkpoint(tmp_path / "copy")
    content = bytearray(file.read_bytes())
    content[-1000] ^= 1
    file.write_bytes(content)
    assert "its sha256 differs" in not_passed(verify(tmp_path / "copy"))["files as written"]
    file.write_bytes(content[:-1000])
    found = not_passed(verify(tmp_path / "copy"))
    assert "it is truncated" in found["files whole"] and "a file cannot be read" in found["names"]


def test_a_pipeline_without_a_component_or_for_another_reader_is_named(layered: Make, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(layered("diffusers int8").folder, copy)
    shutil.rmtree(copy / "vae")
    config = json.loads((copy / "transformer" / "config.json").read_text())
    config["quantization_config"]["quant_type"]["default"]["_type"] = "Int4WeightOnlyConfig"
    (copy / "transformer" / "config.json").write_text(json.dumps(config))
    found = not_passed(verify(copy))
    assert "vae is named in model_index.json, and not there" in found["pipeline"]
    assert "quantization_config says torchao and Int4WeightOnlyConfig" in found["config.json"]
