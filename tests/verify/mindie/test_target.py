"""MindIE's exports: what is written passes, and each way to spoil it is named by the rule it breaks."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmc.__main__ import main
from llmc.verify.mindie.target import NETWORK_RULES
from llmc.verify.run import verify
from tests.end_to_end.small_run import small_config
from tests.verify.conftest import Exported

Rows = dict[str, Any]
Tensors = dict[str, torch.Tensor]
INT8, TOKEN = {"bit": 8}, {"bit": 8, "granularity": "per_token"}
STATIC = {"bit": 8, "granularity": "per_tensor", "static": True}
MIXED = [{"match": "blocks.0.*", "weight": INT8, "act": {**STATIC, "symmetric": False}}]
MX4 = {"weight": {"bit": "mxfp4"}, "act": {"bit": "mxfp4"}, "soc": "a5"}
FORMS: dict[str, tuple[str, dict[str, Any]]] = {  # form -> family, grids and settings
    "mixed": ("WanT2V", {"weight": INT8, "act": TOKEN, "rules": MIXED}),
    "half": ("WanT2V", {"weight": INT8, "act": STATIC, "dtype": "fp16"}),
    "steps": ("WanT2V", {"weight": INT8, "act": STATIC, "method": {"name": "Timestep", "timestep_sep": 1}}),
    "mxfp8": ("HunyuanVideo", {"weight": {"bit": "mxfp8"}, "act": {"bit": "mxfp8"}, "soc": "a5"}),
    "mxfp4": ("HunyuanVideo", {**MX4, "mindie_version": "2026-07"}),
    "mxfp4 version 3": ("WanT2V", MX4),
    "weights alone": ("OpenSoraPlan", {"weight": {"bit": 4}, "act": None}),
    "attention alone": (
        "HunyuanVideo",
        {"weight": None, "act": None, "attention": {"bit": "e4m3", "rotate": "online"}, "soc": "a5"},
    ),
}
Make = Callable[[str], Exported]


@pytest.fixture(scope="session")
def written(tmp_path_factory: pytest.TempPathFactory) -> Make:
    made: dict[str, Exported] = {}

    def make(form: str) -> Exported:
        if form not in made:
            out, (family, given) = tmp_path_factory.mktemp("mindie"), FORMS[form]
            quant = {key: given[key] for key in ("weight", "act", "rules", "method", "attention") if key in given}
            save = {"save_lightx2v": False, "save_mindie": True, **{k: v for k, v in given.items() if k not in quant}}
            smooth = {"name": "SmoothQuant", "alpha": 0.5, "gate": False} if given["act"] else {"name": "RTN"}
            quant = {"video_gen": {"method": smooth, **quant}}
            path = small_config(out, family=family, eval=None, quant=quant, save=save)
            assert main(["run", "--config", str(path)]) == 0
            made[form] = Exported(out / "export", out / "run", out / "model")
        return made[form]

    return make


@dataclass
class Spoiled:
    """A copy to change: its tensors, its description, and where it lies."""

    folder: Path
    tensors: Tensors
    rows: Rows

    def put(self, name: str, tensor: torch.Tensor) -> None:
        self.tensors[name] = tensor

    def rename(self, name: str, to: str) -> None:
        for place in (self.tensors, self.rows):
            place[to] = place.pop(name)

    def drop(self, name: str) -> None:
        del self.tensors[name], self.rows[name]

    @property
    def weights(self) -> Path:
        return next(self.folder.glob("*.safetensors"))

    @property
    def description(self) -> Path:
        return next(self.folder.glob("quant_model_description*.json"))


def failures(folder: Path, made: Exported) -> dict[str, str]:
    report = verify(folder, against=made.run)
    return {v.rule: "\n".join(v.problems) for v in report.verdicts if v.status == "fail"}


def spoiled(
    made: Exported, folder: Path, change: Callable[[Spoiled], object], late: Callable[[Spoiled], object] = id
) -> dict[str, str]:
    """What fails in a copy after a change, and a late one of the files, its manifest brought up to date."""
    copy = folder / "copy"
    shutil.copytree(made.folder, copy)
    weights = next(copy.glob("*.safetensors"))
    description = next(copy.glob("quant_model_description*.json"))
    it = Spoiled(copy, load_file(weights), json.loads(description.read_text()))
    change(it)
    save_file({name: tensor.contiguous() for name, tensor in it.tensors.items()}, it.weights)
    it.description.write_text(json.dumps(it.rows))
    late(it)
    manifest = json.loads((copy / "llmc_manifest.json").read_text())
    files = [file for file in copy.iterdir() if file.name != "llmc_manifest.json"]
    manifest["files"] = {file.name: {"sha256": hashlib.sha256(file.read_bytes()).hexdigest()} for file in files}
    (copy / "llmc_manifest.json").write_text(json.dumps(manifest))
    return failures(copy, made)


@pytest.mark.parametrize("form", FORMS)
def test_what_is_written_passes_every_rule(written: Make, tmp_path: Path, form: str) -> None:
    made = written(form)
    report = verify(made.folder, against=made.run)
    assert report.target == "mindie" and [v for v in report.verdicts if v.status != "pass"] == []
    assert spoiled(made, tmp_path, lambda it: None) == {}
    alone = verify(made.folder)
    assert alone.exit_code == 3 and {v.rule for v in alone.unproven} == set(NETWORK_RULES)


Q, S, NORM = "blocks.1.self_attn.q", "blocks.0.self_attn.q", "blocks.1.norm3.weight"  # dynamic, static
QKV = "double_blocks.0.img_attn_qkv"


def times(name: str, factor: float) -> Callable[[Spoiled], object]:
    return lambda it: it.put(name, (it.tensors[name].float() * factor).to(it.tensors[name].dtype))


def swapped_scales(it: Spoiled) -> None:
    scale, product = f"{S}.linear.input_scale", f"{S}.linear.deq_scale"
    it.tensors[scale], it.tensors[product] = it.tensors[product], it.tensors[scale]


def not_fused(it: Spoiled) -> None:
    for name in [name for name in it.tensors if name.startswith(f"{QKV}.")]:
        leaf = name.removeprefix(f"{QKV}.")
        it.rename(name, f"transformer_blocks.0.attn.to_q.{leaf}")


def numbered(it: Spoiled) -> None:
    it.description.rename(it.description.with_name(f"{it.description.stem}_0.json"))


def second_file(it: Spoiled) -> None:
    save_file({"a": torch.zeros(1)}, it.folder / "other.safetensors")


def renamed(it: Spoiled) -> None:
    it.weights.rename(it.folder / "quant_model_weight_w8a8_dynamic.safetensors")


def linked(it: Spoiled) -> None:
    name, place = it.description, it.folder.parent / "elsewhere.json"
    name.rename(place)
    name.symlink_to(place)


def without_smoothing(it: Spoiled) -> None:
    it.drop(f"{Q}.div.mul_scale")


def beside(it: Spoiled) -> None:
    it.put(f"{Q}.bias", it.tensors[f"{Q}.linear.bias"].clone())
    it.rows[f"{Q}.bias"] = "FLOAT"


def swapped_nibbles(it: Spoiled) -> None:
    name = f"{QKV}.linear.weight"
    it.put(name, it.tensors[name] << 4 | it.tensors[name] >> 4)


def bytes_for_version_3(it: Spoiled) -> None:
    name = f"{Q}.linear.weight"
    it.put(name, torch.zeros(it.tensors[name].shape[0], it.tensors[name].shape[1] // 2, dtype=torch.uint8))


def written_for(**said: Any) -> Callable[[Spoiled], object]:
    def change(it: Spoiled) -> None:
        path = it.folder / "llmc_manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **said}))

    return change


def half_rotated(it: Spoiled) -> None:
    it.put("double_blocks.0.q_rot", torch.eye(16))
    it.rows |= {"double_blocks.0.q_rot": "FLOAT", "double_blocks.0.quant_type": "FP8_DYNAMIC"}


def rotated_apart(it: Spoiled) -> None:
    half_rotated(it)
    it.put("double_blocks.0.k_rot", torch.eye(16).roll(1, 0))
    it.rows["double_blocks.0.k_rot"] = "FLOAT"


def int8_attention(it: Spoiled) -> None:
    for role in "qkv":
        it.put(f"blocks.0.self_attn.fa_{role}.scale", torch.ones(5, 1))
        it.put(f"blocks.0.self_attn.fa_{role}.offset", torch.zeros(5, 1, dtype=torch.int8))
        it.rows |= {f"blocks.0.self_attn.fa_{role}.{leaf}": "FAQuant" for leaf in ("scale", "offset")}


def smoothed_alone(it: Spoiled) -> None:
    for name in [name for name in it.tensors if name.startswith("transformer_blocks.0.ff.net.2.")]:
        it.rename(name, name.replace("ff.net.2.", "ff.net.2.linear."))
    it.put("transformer_blocks.0.ff.net.2.div.mul_scale", torch.ones(192))
    it.rows["transformer_blocks.0.ff.net.2.div.mul_scale"] = "FLOAT"


def fewer_steps(it: Spoiled) -> None:
    for leaf in ("input_scale", "input_offset", "deq_scale", "quant_bias"):
        it.put(f"{Q}.{leaf}", it.tensors[f"{Q}.{leaf}"][:1])


def no_steps(it: Spoiled) -> None:
    for leaf in ("input_scale", "input_offset", "deq_scale", "quant_bias"):
        it.put(f"{Q}.{leaf}", it.tensors[f"{Q}.{leaf}"][:0])


def odd_policy(it: Spoiled) -> None:
    path = it.folder / "timestep_policy.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "register": []}))


def other_steps(it: Spoiled) -> None:
    path = it.folder / "timestep_policy.json"
    path.write_text(path.read_text().replace("range(1, 2)", "range(0, 2)"))


FAULTS: dict[str, tuple[str, Callable[[Spoiled], object], dict[str, str]]] = {
    "smoothing fused into a norm": (
        "mixed", times(NORM, 2), {"floats against the model": f"{NORM} is not the float model's"}),
    "another type string": (
        "mixed", lambda it: it.rows.update({f"{Q}.linear.weight": "W8A8_DYN"}),
        {"description": f"{Q}.linear.weight is called W8A8_DYN, which MindIE passes over"}),
    "a row lost": (
        "mixed", lambda it: it.rows.pop(f"{Q}.linear.weight_scale"),
        {"description": f"{Q}.linear.weight_scale has no row"}),
    "a row of no tensor": (
        "mixed", lambda it: it.rows.update({f"{Q}.linear.strange": "W8A8_DYNAMIC"}),
        {"description": f"{Q}.linear.strange has a row, and is no tensor"}),
    "a float row of a quantized linear": (
        "mixed", lambda it: it.rows.update({f"{Q}.linear.weight": "FLOAT"}),
        {"description": f"{Q}.linear.weight_scale is called W8A8_DYNAMIC, and no weight beside it is",
         "types, shapes": f"{Q}.linear.weight is int8, and called FLOAT"}),
    "two types in one linear": (
        "mixed", lambda it: it.rows.update({f"{Q}.linear.weight_scale": "W8A8"}),
        {"description": f"{Q}.linear.weight_scale is called W8A8, and its weight W8A8_DYNAMIC"}),
    "a type of the model that nobody knows": (
        "mixed", lambda it: it.rows.update(model_quant_type="w8a8"), {"description": "model_quant_type is w8a8"}),
    "an integer scale in a bfloat16 run": (
        "mixed", lambda it: it.put(f"{S}.linear.deq_scale", torch.ones(64, dtype=torch.int64)),
        {"types, shapes": f"{S}.linear.deq_scale is int64 [64]; it must be float32 [64] in a run in bfloat16"}),
    "a float scale in a float16 run": (
        "half", lambda it: it.put(f"{S}.linear.deq_scale", torch.ones(64)),
        {"types, shapes": f"{S}.linear.deq_scale is float32 [64]; it must be int64 [64] in a run in float16"}),
    "scales swapped": (
        "mixed", swapped_scales, {"types, shapes": f"{S}.linear.input_scale is float32 [64]; it must be"}),
    "a scale of another input": (
        "mixed", times(f"{S}.linear.input_scale", 1.25),
        {"static grids": f"{S}.linear.deq_scale is not input_scale times a scale of the weight"}),
    "a bias in other units": (
        "mixed", lambda it: it.tensors[f"{S}.linear.quant_bias"].add_(300), {"static grids": "quant_bias is not bias"}),
    "an offset beyond int8": (
        "mixed", lambda it: it.put(f"{S}.linear.input_offset", torch.tensor([200.0])),
        {"static grids": f"{S}.linear.input_offset is 200.0; it is a whole number from -128 to 127"}),
    "a scale that bfloat16 rounds": (
        "mixed", times(f"{Q}.linear.weight_scale", 1.001),
        {"scale values": f"{Q}.linear.weight_scale is not exact in bfloat16",
         "against the judged weights": "is not the weight"}),
    "a scale that is no number": (
        "mixed", times(f"{Q}.div.mul_scale", float("nan")),
        {"scale values": f"{Q}.div.mul_scale holds values that are not finite", "against the float model": Q}),
    "one code changed": (
        "mixed", lambda it: it.tensors[f"{Q}.linear.weight"][0, :1].add_(1),
        {"against the judged weights": "is not the weight that was judged"}),
    "a bias lost": (
        "mixed", lambda it: it.drop(f"{Q}.linear.bias"),
        {"names": f"{Q}.bias is missing", "kernels": f"{Q}.linear.bias is missing: MindIE does not take"}),
    "a float tensor lost": ("mixed", lambda it: it.drop(NORM), {"names": f"{NORM} is missing"}),
    "a multiplier lost": (
        "mixed", without_smoothing, {"smoothing": f"{Q}.div.mul_scale is not: MindIE finds no weight"}),
    "tensors outside of linear": ("mixed", beside, {"smoothing": f"{Q}.bias beside {Q}.linear"}),
    "a name of diffusers": (
        "mixed", lambda it: it.rename("blocks.1.norm3.bias", "blocks.1.norm2.bias"),
        {"names": "blocks.1.norm2.bias is blocks.1.norm3.bias in MindIE's network"}),
    "linears that were not fused": (
        "mxfp8", not_fused, {"names": f"transformer_blocks.0.attn.to_q was not fused into {QKV}"}),
    "an exponent of no number": (
        "mxfp8", lambda it: it.tensors[f"{QKV}.linear.weight_scale"][0, :1].fill_(255),
        {"scale values": f"{QKV}.linear.weight_scale holds 255"}),
    "another chip": ("mxfp8", written_for(soc="a2"), {"kernels": "W8A8_MXFP8, which only an a5 computes"}),
    "a version that there is not": (
        "mixed", written_for(mindie_version="2.4"),
        {"kernels": "the manifest says mindie_version 2.4; there is 2.3, 3, 2026-07"}),
    "a chip and a type that there are not": (
        "mixed", written_for(soc=3, dtype="float16"),
        {"kernels": "soc 3; there is a2, a3, a5\nthe manifest says dtype float16; there is bf16, fp16"}),
    "a step lost": (
        "steps", fewer_steps, {"steps": f"{Q} has 1 rows of grids; the schedule has 2 steps"}),
    "every step lost": (
        "steps", no_steps, {"static grids": f"{Q}.input_scale has no row", "steps": f"{Q} has 0 rows of grids"}),
    "a policy without calls": (
        "steps", odd_policy, {"steps": "timestep_policy.json has None for version 3"}),
    "a call for other steps": (
        "steps", other_steps, {"steps": 'has policy.register(range(0, 2), "static") for version 3'}),
    "nobody says which steps": (
        "steps", lambda it: (it.folder / "timestep_policy.json").unlink(),
        {"steps": "timestep_policy.json is missing"}),
    "a grid of a step of another input": (
        "steps", times(f"{Q}.input_scale", 2), {"static grids": f"{Q}.deq_scale is not input_scale times"}),
    "a rotation that is none": (
        "mxfp8", half_rotated, {"attention": "double_blocks.0: double_blocks.0.k_rot missing: FP8_DYNAMIC needs both"}),
    "rotations that are not one": (
        "mxfp8", rotated_apart, {"attention": "q_rot and k_rot change the products of queries and keys"}),
    "attention of another version": (
        "mxfp8", lambda it: it.rows.update({"double_blocks.0.quant_type": "MXFP8_DYNAMIC"}),
        {"attention": "MXFP8_DYNAMIC is read by 2026-07; this was written for 3"}),
    "int8 scales that nobody reads any more": (
        "mixed", int8_attention, {"attention": "FAQuant is read by 2.3; this was written for 3"}),
    "nibbles swapped": (
        "mxfp4", swapped_nibbles, {"against the float model": f"{QKV}.linear.weight: its nibbles are swapped",
                                   "against the judged weights": "nibbles are swapped"}),
    "two codes a byte for version 3": (
        "mxfp4 version 3", bytes_for_version_3,
        {"types, shapes": f"{Q}.linear.weight is uint8 [64, 32]; it must be float8_e4m3fn [64, 64]"}),
    "a value that e2m1 has not": (
        "mxfp4 version 3", lambda it: it.put(f"{Q}.linear.weight", torch.full((64, 64), 5.0).to(torch.float8_e4m3fn)),
        {"scale values": f"{Q}.linear.weight holds values that e2m1 has not"}),
    "a code beyond int4": (
        "weights alone", lambda it: it.tensors["transformer_blocks.0.ff.net.2.weight"][0, :1].fill_(9),
        {"scale values": "transformer_blocks.0.ff.net.2.weight holds codes beyond -8 to 7"}),
    "a multiplier that nobody reads": (
        "weights alone", smoothed_alone, {"smoothing": "ff.net.2.div.mul_scale is ignored by W4A16"}),
}  # fmt: skip


def test_an_export_without_a_manifest_is_mindies_still(written: Make, tmp_path: Path) -> None:
    made = written("mixed")
    copy = tmp_path / "copy"
    shutil.copytree(made.folder, copy)
    (copy / "llmc_manifest.json").unlink()
    report = verify(copy, against=made.run)
    assert report.target == "mindie" and [v.rule for v in report.verdicts if v.status != "pass"] == ["files as written"]


def test_scales_of_an_attention_are_one_for_each_head(written: Make, tmp_path: Path) -> None:
    found = spoiled(written("mixed"), tmp_path, int8_attention)
    assert "blocks.0.self_attn.fa_v.scale is [5, 1]; there is one for each head, [4, 1]" in found["attention"]


FILE_FAULTS: dict[str, tuple[Callable[[Spoiled], object], str]] = {
    "readable by others": (lambda it: it.weights.chmod(0o644), "has mode 0644; MindIE refuses more than 0640"),
    "a number at the end": (numbered, "quant_model_description_w8a8_0.json ends in a number"),
    "a second file": (second_file, "other.safetensors beside it is read by nobody"),
    "another name": (renamed, "quant_model_weight_w8a8.safetensors is missing"),
    "a link": (linked, "is a symbolic link"),
}


@pytest.mark.parametrize("fault", FILE_FAULTS)
def test_a_file_that_its_loader_refuses_is_named(written: Make, tmp_path: Path, fault: str) -> None:
    change, expected = FILE_FAULTS[fault]
    found = spoiled(written("mixed"), tmp_path, id, change)
    assert expected in found["file names"]
    # what a second file holds has no row
    assert found.keys() <= {"file names", "names", "description", "against the judged tensors"}, found


def test_a_changed_file_is_named(written: Make, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(written("mixed").folder, copy)
    weights = next(copy.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1000])
    report = verify(copy)
    found = {v.rule: "; ".join(v.problems) + v.note for v in report.verdicts if v.status != "pass"}
    assert "its sha256 differs" in found["files as written"] and "it is truncated" in found["files whole"]
    assert found["names"] == found["description"] == "a file cannot be read"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_by_its_rule(written: Make, tmp_path: Path, fault: str) -> None:
    form, change, expected = FAULTS[fault]
    found = spoiled(written(form), tmp_path, change)
    assert all(says in found.get(rule, "") for rule, says in expected.items()), found
    follows = {"against the float model", "against the judged weights", "names", "kernels", "smoothing", "witness",
               "against the judged tensors", "floats against the model", "input arithmetic", "attention as judged",
               "schedule"}  # fmt: skip
    assert found.keys() - expected.keys() <= follows, found
