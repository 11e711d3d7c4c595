"""Every form of a linear in a ComfyUI file: what it says, what is stored, and that nothing wrong leaves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from llmc.algorithms.base import Algorithm
from llmc.algorithms.gptq import GPTQ
from llmc.algorithms.hadamard import Hadamard
from llmc.algorithms.smoothquant import SmoothQuant
from llmc.convert.rename import Renamer
from llmc.errors import ExportError
from llmc.export.comfyui.exporter import ComfyUI
from llmc.export.comfyui.forms import FORMS
from llmc.export.comfyui.readback import check_written
from llmc.layers.transforms import Rotate
from llmc.models.wan import LIGHTX2V
from llmc.numerics.spec import LayerSpec
from llmc.policy.rules import Policy, Rule
from tests.export.comfyui.grids import GRIDS, MIXED
from tests.export.tiny import finished_family, finished_part

SMOOTH, ROTATE = SmoothQuant(gate=False), Hadamard(matrix="regular", gate=False)
F32, I8, U8, E4M3 = torch.float32, torch.int8, torch.uint8, torch.float8_e4m3fn
N = K = 64  # of the layer that is looked at: blocks.0.attn1.to_q
ROTATED = {"convrot": True, "convrot_groupsize": 64}
STORED: Mapping[str, tuple[dict[str, Any], dict[str, tuple[torch.dtype, tuple[int, ...]]]]] = {
    "int8": (
        {"format": "int8_tensorwise", **ROTATED}, {"weight": (I8, (N, K)), "weight_scale": (F32, (N, 1))}
    ),
    "e5m2": (
        {"format": "float8_e5m2"},
        {"weight": (torch.float8_e5m2, (N, K)), "weight_scale": (F32, ()), "input_scale": (F32, ())},
    ),
    "w4a4": (
        {"format": "convrot_w4a4", "convrot_groupsize": 64, "linear_dtype": "int4"},
        {"weight": (I8, (N, K // 2)), "weight_scale": (F32, (N,))},
    ),
    "w4a8": (
        {"format": "asym_w4a8_int8", "group_size": 16, **ROTATED},
        {"weight": (I8, (N, K // 2)), "weight_s_rel": (E4M3, (N, K // 16)), "weight_s_channel": (F32, (N,)),
         "weight_codebook": (F32, (16,))},
    ),
    "awq": (
        {"format": "awq_w4a16", "group_size": 32},
        {"weight": (I8, (N, K // 2)), "weight_scale": (F32, (K // 32, N)), "weight_zeros": (F32, (K // 32, N))},
    ),
    "nvfp4 static": (
        {"format": "nvfp4"},
        {"weight": (U8, (N, K // 2)), "weight_scale": (E4M3, (128, 4)), "weight_scale_2": (F32, ()),
         "input_scale": (F32, ()), "pre_quant_scale": (F32, (K,))},
    ),
    "nvfp4 weights alone": (
        {"format": "nvfp4", "full_precision_matrix_mult": True},
        {"weight": (U8, (N, K // 2)), "weight_scale": (E4M3, (128, 4)), "weight_scale_2": (F32, ()),
         "pre_quant_scale": (F32, (K,))},
    ),
    "mxfp8": (
        {"format": "mxfp8"}, {"weight": (E4M3, (N, K)), "weight_scale": (torch.float8_e8m0fnu, (128, 4))}
    ),
}  # fmt: skip


def written(
    folder: Path, out: Path, policy: Policy, recipe: tuple[Algorithm, ...] = (SMOOTH, ROTATE)
) -> dict[str, Tensor]:
    part, _ = finished_part(folder, ComfyUI(), policy, recipe=recipe)
    ComfyUI().write(part, out)
    (file,) = out.glob("*.safetensors")
    return load_file(file)


@pytest.mark.parametrize("name", STORED)
def test_a_layer_says_what_it_is_and_has_the_tensors_that_are_read(folder: Path, tmp_path: Path, name: str) -> None:
    tensors = written(folder, tmp_path, Policy(GRIDS[name]))
    found = leaves_of(tensors, "blocks.0.self_attn.q")
    says, leaves = STORED[name]
    assert json.loads(bytes(found.pop("comfy_quant").tolist())) == says
    found.pop("bias")
    assert {leaf: (tensor.dtype, tuple(tensor.shape)) for leaf, tensor in found.items()} == leaves


def test_each_layer_of_one_file_has_a_form_of_its_own(folder: Path, tmp_path: Path) -> None:
    rules = tuple(Rule(match, GRIDS[name]) for match, name in MIXED.items())
    tensors = written(folder, tmp_path, Policy(GRIDS["int8"], rules))
    found = {name.removesuffix(".comfy_quant"): json.loads(bytes(tensor.tolist()))
             for name, tensor in tensors.items() if name.endswith(".comfy_quant")}  # fmt: skip
    assert len({each["format"] for each in found.values()}) == 6
    assert found["blocks.1.ffn.2"]["format"] == "asym_w4a8_int8"
    rotated = {each["format"] for each in found.values() if "convrot_groupsize" in each}
    assert rotated == {"convrot_w4a4", "asym_w4a8_int8", "int8_tensorwise"}


def test_what_nothing_absorbs_is_multiplied_where_a_form_can(folder: Path) -> None:
    _, network = finished_part(folder, ComfyUI(), Policy(GRIDS["nvfp4"]))
    assert all(layer.state.transforms for layer in network.layers.values())
    _, network = finished_part(folder, ComfyUI(), Policy(GRIDS["mxfp8"]))
    assert not network.layers["blocks.0.ffn.net.2"].state.transforms


def test_forms_that_cannot_rotate_are_left_as_they_are_and_those_that_must_are_never_judged(folder: Path) -> None:
    policy = Policy(GRIDS["w4a4"], (Rule("blocks.0.*", GRIDS["fp8"]),))
    _, network = finished_part(folder, ComfyUI(), policy, recipe=(Hadamard(matrix="regular"),))
    turned = {name.split(".")[1] for name, layer in network.layers.items()
              if any(isinstance(each, Rotate) for each in layer.state.transforms)}  # fmt: skip
    assert turned == {"1"}
    assert network.blocks[0].rejected == {"Hadamard, which a target cannot rotate by": 8}
    assert not network.blocks[1].rejected


@pytest.mark.parametrize("form", [form for form in FORMS if form.rotation == "must"], ids=lambda form: form.format)
def test_a_form_that_always_rotates_asks_for_the_method(form: Any) -> None:
    grids = LayerSpec(weight=form.weights[0], act=form.acts[0])
    (problem,) = ComfyUI().problems(grids, frozenset({"scale", "rounded"}))
    assert "always rotate their inputs; put `{name: Hadamard, matrix: regular}`" in problem
    assert ComfyUI().problems(grids, frozenset({"scale", "rotate_regular", "rounded"})) == []
    assert "rotate" in ComfyUI().problems(grids, frozenset({"rotate", "rotate_regular"}))[0]


WRONG = {
    "not rotated": lambda leaves: says(leaves, convrot=False),
    "another group": lambda leaves: says(leaves, convrot_groupsize=16),
    "rows in another order": lambda leaves: {"weight": leaves["weight"].flip(0)},
    "no description": lambda leaves: {"comfy_quant": None},
}
WRONG_NIBBLES = {
    "nibbles the wrong way round": lambda leaves: {"weight": swapped(leaves["weight"])},
    "another codebook": lambda leaves: {"weight_codebook": leaves["weight_codebook"].flip(0)},
    "steps of other rows": lambda leaves: {"weight_s_rel": leaves["weight_s_rel"].view(U8).flip(0).view(E4M3)},
}


@torch.no_grad()
@pytest.mark.parametrize("name, fault", [*(("int8", fault) for fault in WRONG), *(("w4a8", fault) for fault in
                         (*WRONG, *WRONG_NIBBLES) if fault != "not rotated")])  # fmt: skip
def test_a_file_that_would_run_silently_wrong_does_not_leave(
    once: Mapping[str, Any], tmp_path: Path, name: str, fault: str
) -> None:
    part, tensors = once[name]
    module = "blocks.1.ffn.0"
    changed = dict(tensors)
    for leaf, tensor in (WRONG | WRONG_NIBBLES)[fault](leaves_of(tensors, module)).items():
        changed.pop(f"{module}.{leaf}") if tensor is None else changed.update({f"{module}.{leaf}": tensor})
    save_file(changed, tmp_path / "wrong.safetensors")
    with pytest.raises(ExportError, match=r"blocks\.1\.ffn\.0"):
        check_written(tmp_path / "wrong.safetensors", part)


@pytest.fixture(scope="module")
def once(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    """Two parts and what their files hold."""
    found = {}
    for name in ("int8", "w4a8"):
        part, _ = finished_part(folder, ComfyUI(), Policy(GRIDS[name]), recipe=(SMOOTH, ROTATE))
        ComfyUI().write(part, out := tmp_path_factory.mktemp("out"))
        (file,) = out.glob("*.safetensors")
        found[name] = part, load_file(file)
    return found


@torch.no_grad()
@pytest.mark.parametrize("name", ["nvfp4", "w4a8", "awq"])
def test_layers_that_are_one_in_the_original_are_stored_as_one_in_every_form(tmp_path: Path, name: str) -> None:
    """Rows that no tile divides, scales that all of them share: reading the file back compares every part."""
    exporter = ComfyUI(codebook="own")
    recipe = (Hadamard(matrix="regular"), GPTQ()) if name == "w4a8" else (SMOOTH,)
    part, network, _ = finished_family(tmp_path, "Flux", exporter, GRIDS[name], recipe)
    exporter.write(part, tmp_path / "out")
    (file,) = (tmp_path / "out").iterdir()
    tensors = load_file(file)
    rows = sum(network.layers[f"single_transformer_blocks.0.{linear}"].out_features
               for linear in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"))  # fmt: skip
    assert tensors["single_blocks.0.linear1.weight"].shape[0] == rows
    if name == "w4a8":  # levels of their own, and the same of all four
        assert tensors["single_blocks.0.linear1.weight_codebook"].shape == (16,)
        assert not torch.equal(
            tensors["single_blocks.0.linear1.weight_codebook"], tensors["single_blocks.1.linear1.weight_codebook"]
        )


def leaves_of(tensors: Mapping[str, Tensor], module: str) -> dict[str, Tensor]:
    return {name.rpartition(".")[2]: tensor for name, tensor in tensors.items() if name.rpartition(".")[0] == module}


def says(leaves: Mapping[str, Tensor], **other: object) -> dict[str, Tensor]:
    content = json.loads(bytes(leaves["comfy_quant"].tolist())) | other
    return {"comfy_quant": torch.tensor(list(json.dumps(content).encode()), dtype=U8)}


def swapped(packed: Tensor) -> Tensor:
    bits = packed.view(U8)
    return (bits >> 4 | bits << 4).view(I8)


def test_names_of_the_test_are_those_of_the_original() -> None:
    assert Renamer(LIGHTX2V).forward("blocks.0.attn1.to_q") == "blocks.0.self_attn.q"
