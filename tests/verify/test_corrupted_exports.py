"""Each way to spoil an export is named by the rule that it breaks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmc.verify.files import open_tensor_file
from llmc.verify.run import verify
from tests.verify.conftest import Exported, Make

NAME = "diffusion_pytorch_model.safetensors"
Tensors = dict[str, torch.Tensor]
FFN, Q = "blocks.0.ffn.0", "blocks.1.self_attn.q"
FOLLOW = {"against the float model", "floats against the model", "against the judged weights", "witness",
          "against the judged tensors"}  # fmt: skip


def change_tensors(folder: Path, change: Callable[[Tensors], object], file: str = NAME) -> None:
    tensors = load_file(folder / file)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / file)


def change_json(file: Path, **values: object) -> None:
    """None takes a key out."""
    content = {**json.loads(file.read_text()), **values}
    file.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def failures(folder: Path, made: Exported) -> dict[str, str]:
    report = verify(folder, against=made.run)
    return {v.rule: "\n".join(v.problems) for v in report.verdicts if v.status == "fail"}


def spoiled(made: Exported, folder: Path, change: Callable[[Tensors], object]) -> dict[str, str]:
    """What fails after `change`."""
    copy = made.copied(folder / "spoiled")
    change_tensors(copy, change)
    return failures(copy, made)


def scaled(tensors: Tensors, name: str, factor: float) -> None:
    tensors[name] *= factor


def swap(tensors: Tensors, name: str, by: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensors[name] = by(tensors[name])


def rename(tensors: Tensors, name: str, to: str) -> None:
    tensors[to] = tensors.pop(name)


BY_TENSORS: dict[str, tuple[Callable[[Tensors], object], dict[str, str]]] = {
    "a scale deleted": (
        lambda t: t.pop(f"{FFN}.weight_scale"),
        {"scales": f"{FFN}.weight_scale is missing"},
    ),
    "a scale of the wrong shape": (
        lambda t: swap(t, f"{FFN}.weight_scale", torch.Tensor.flatten),
        {"scales": f"{FFN}.weight_scale is [512]; int8 has [512, 1] there"},
    ),
    "a scale that is not a number": (
        lambda t: scaled(t, f"{FFN}.weight_scale", float("nan")),
        {"scale values": "holds NaN", "against the float model": FFN, "against the judged": FFN},
    ),
    "a negative scale": (
        lambda t: scaled(t, f"{FFN}.weight_scale", -1),
        {"scale values": "not positive", "against the float model": FFN,
         "against the judged": FFN},
    ),
    "a scale that bf16 rounds": (
        lambda t: scaled(t, f"{FFN}.weight_scale", 1.001),
        {"scale values": f"{FFN}.weight_scale is not exact in bfloat16", "against the judged": "not the weight"},
    ),
    "a transposed weight": (
        lambda t: swap(t, f"{FFN}.weight", torch.Tensor.t),
        {"shapes": "is [256, 512]: it is transposed", "one precision": FFN},
    ),
    "a transposed square weight": (
        lambda t: swap(t, f"{Q}.weight", torch.Tensor.t),
        {"against the float model": f"{Q}.weight: it is transposed", "against the judged": "it is transposed"},
    ),
    "a weight that is left float": (
        lambda t: swap(t, f"{FFN}.weight", torch.Tensor.bfloat16),
        {"one precision": f"two precisions: most linears are in int8, but not {FFN}",
         "types": f"{FFN}.weight is bfloat16; int8 stores int8"},
    ),
    "a weight in place of another": (
        lambda t: swap(t, f"{Q}.weight", lambda _: t["blocks.1.self_attn.k.weight"].clone()),
        {"against the float model": "of its norm away", "against the judged": f"{Q}.weight is not the weight"},
    ),
    "a key in diffusers' naming": (
        lambda t: rename(t, f"{Q}.weight", "blocks.1.attn1.to_q.weight"),
        {"one naming": f"blocks.1.attn1.to_q.weight is diffusers' name; this folder calls it {Q}.weight"},
    ),
    "a tensor that nobody reads": (
        lambda t: t.update({"blocks.7.ffn.0.weight": torch.zeros(1)}),
        {"names": "blocks.7.ffn.0.weight is read by nobody"},
    ),
    "a bias deleted": (
        lambda t: t.pop(f"{Q}.bias"),
        {"names": f"{Q}.bias is missing"},
    ),
    "a float tensor in integers": (
        lambda t: swap(t, "blocks.0.modulation", torch.Tensor.int),
        {"types": "blocks.0.modulation is int32; it stays float"},
    ),
    "a float tensor of another shape": (
        lambda t: swap(t, "text_embedding.0.weight", lambda x: x[:-1]),
        {"shapes": "text_embedding.0.weight is [255, 32]; the network makes it [256, 32]"},
    ),
    "multipliers of one norm deleted": (
        lambda t: t.pop("blocks.1.affine_norm3.weight"),
        {"quant_method": "blocks.1.affine_norm3.weight missing",
         "against the judged tensors": "blocks.1.ffn.net.0.proj.multiplier was judged, and is not"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("scheme", ["int8-vllm", "nvfp4", "mxfp4", "mxfp6-mxfp8", "mxfp8"])
def test_a_copy_in_which_nothing_is_spoiled_passes(exported: Make, tmp_path: Path, scheme: str) -> None:
    made = exported(scheme)
    assert failures(made.copied(tmp_path / "copy"), made) == {}


@pytest.mark.parametrize("fault", BY_TENSORS)
def test_a_fault_in_the_tensors_is_named(exported: Make, tmp_path: Path, fault: str) -> None:
    change, expected = BY_TENSORS[fault]
    found = spoiled(exported("int8-vllm"), tmp_path, change)
    for rule, says in expected.items():
        name = next((name for name in found if name.startswith(rule)), None)
        assert name is not None and says in found[name], found
    unexpected = {name for name in found if not any(name.startswith(rule) for rule in expected)}
    assert unexpected <= FOLLOW, found


def test_multipliers_that_nobody_declares_are_named(exported: Make, tmp_path: Path) -> None:
    made = exported("int8-vllm")
    copy = made.copied(tmp_path / "copy")
    for file in (copy / "config.json", copy / "lightx2v_int8-vllm.json"):
        change_json(file, quant_method=None)
    found = failures(copy, made)
    assert list(found) == ["quant_method"] and "no `quant_method: advanced_ptq`" in found["quant_method"]


def test_a_method_that_is_declared_without_multipliers_is_named(exported: Make, tmp_path: Path) -> None:
    made = exported("int4-g128-marlin")
    copy = made.copied(tmp_path / "copy")
    change_json(copy / "config.json", quant_method="advanced_ptq")
    assert "there are no affine_norm tensors" in failures(copy, made)["quant_method"]


def test_two_precisions_in_one_folder_are_named(exported: Make, tmp_path: Path) -> None:
    made = exported("int8-vllm")
    copy = made.copied(tmp_path / "copy")
    shutil.copy(exported("fp8-vllm").folder / NAME, copy / "fp8.safetensors")
    found = failures(copy, made)["one precision"]
    assert "(float8_e4m3fn and int8) lie in diffusion_pytorch_model.safetensors and in fp8.safetensors" in found


def test_a_truncated_file_is_named_and_nothing_else_is_guessed(exported: Make, tmp_path: Path) -> None:
    made = exported("int8-vllm")
    copy = made.copied(tmp_path / "copy")
    content = (copy / NAME).read_bytes()
    (copy / NAME).write_bytes(content[:-1000])
    found = failures(copy, made)
    assert list(found) == ["files whole"] and "it is truncated" in found["files whole"]
    (copy / NAME).write_bytes(content.replace(b'"shape"', b'"shope"', 1))
    assert "has a damaged header: nothing is said of" in failures(copy, made)["files whole"]
    (copy / NAME).write_bytes(content[:100])
    assert "no whole header" in failures(copy, made)["files whole"]
    (copy / NAME).unlink()
    (copy / NAME).symlink_to(tmp_path / "nowhere")
    assert "is no file" in failures(copy, made)["files whole"]


@pytest.mark.parametrize(
    "row", [{"dtype": ["F32"]}, {"shape": 3}, {"shape": ["a"]}, {"data_offsets": [1]}, {"data_offsets": ["0", "4"]}]
)
def test_a_header_of_other_types_is_damaged(tmp_path: Path, row: dict[str, Any]) -> None:
    header = {"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], **row}, "__metadata__": ["a"]}
    text = json.dumps(header).encode()
    (tmp_path / NAME).write_bytes(len(text).to_bytes(8, "little") + text + bytes(4))
    problem = open_tensor_file(tmp_path / NAME).problem
    assert "its __metadata__ is no object" in problem and "nothing is said of a" in problem


def test_one_flipped_byte_is_named_by_the_manifest(exported: Make, tmp_path: Path) -> None:
    shutil.copytree(exported("int8-vllm").folder, tmp_path / "copy")
    with (tmp_path / "copy" / NAME).open("r+b") as file:
        file.seek(-1000, 2)
        byte = file.read(1)[0]
        file.seek(-1000, 2)
        file.write(bytes([byte ^ 1]))
    (tmp_path / "copy" / "README.md").unlink()
    (written,) = [v for v in verify(tmp_path / "copy").verdicts if v.rule == "files as written"]
    assert written.problems == (
        "README.md is in the manifest, and not in the folder",
        f"{NAME} is not the file that was written: its sha256 differs",
    )


@pytest.mark.parametrize("scheme", ["nvfp4", "mxfp4"])
def test_swapped_nibbles_are_named(exported: Make, tmp_path: Path, scheme: str) -> None:
    found = spoiled(exported(scheme), tmp_path, lambda t: swap(t, f"{FFN}.weight", lambda x: x << 4 | x >> 4))
    assert f"{FFN}.weight: its nibbles are swapped" in found["against the float model"]
    assert f"{FFN}.weight: its nibbles are swapped" in found["against the judged weights"]


@pytest.mark.parametrize("scheme", ["nvfp4", "mxfp4", "mxfp6-mxfp8", "mxfp8"])
def test_a_skipped_swizzle_is_named(exported: Make, tmp_path: Path, scheme: str) -> None:
    def unswizzled(scale: torch.Tensor) -> torch.Tensor:
        flat, (rows, columns) = scale.view(torch.uint8).flatten(), scale.shape
        r, c = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        place = (r // 128 * (columns // 4) + c // 4) * 512 + r % 32 * 16 + r % 128 // 32 * 4 + c % 4
        return flat[place].view(scale.dtype)

    found = spoiled(exported(scheme), tmp_path, lambda t: swap(t, f"{FFN}.weight_scale", unswizzled))
    assert f"{FFN}.weight: its scales are not swizzled" in found["against the float model"]
    assert f"{FFN}.weight: its scales are not swizzled" in found["against the judged weights"]


def test_block_files_in_disorder_are_named(exported: Make, tmp_path: Path) -> None:
    made = exported("int8-vllm", layout="blocks")
    copy = made.copied(tmp_path / "copy")
    moved = load_file(copy / "block_0.safetensors")[f"{FFN}.bias"]
    change_tensors(copy, lambda t: t.pop(f"{FFN}.bias"), "block_0.safetensors")
    change_tensors(copy, lambda t: t.update({f"{FFN}.bias": moved}), "block_1.safetensors")
    assert failures(copy, made) == {
        "layout": f"{FFN}.bias lies in block_1.safetensors; lazy loading looks for it in block_0.safetensors"
    }
    (copy / "block_1.safetensors").unlink()
    assert "block_1.safetensors is missing" in failures(copy, made)["layout"]
    change_tensors(copy, lambda t: swap(t, "blocks.0.ffn.2.bias", torch.Tensor.float), "block_0.safetensors")
    assert "lazy loading hands it to a kernel" in failures(copy, made)["types"]


RUNTIME: dict[str, tuple[dict[str, object], str]] = {
    "the scheme of other weights": ({"dit_quant_scheme": "fp8-vllm"}, "the weights are in int8"),
    "a scheme that is not there": ({"dit_quant_scheme": "int9"}, "no dit_quant_scheme int9"),
    "float": ({"dit_quantized": False}, "would be read as float"),
    "another folder": ({"dit_quantized_ckpt": "/elsewhere"}, "dit_quantized_ckpt is /elsewhere"),
    "a key without default": ({"sample_shift": None}, "it lacks sample_shift"),
}


@pytest.mark.parametrize("fault", RUNTIME)
def test_a_runtime_that_would_not_start_these_weights_is_named(exported: Make, tmp_path: Path, fault: str) -> None:
    made, (change, says) = exported("int8-vllm"), RUNTIME[fault]
    copy = made.copied(tmp_path / "copy")
    change_json(copy / "lightx2v_int8-vllm.json", **change)
    assert says in failures(copy, made)["runtime JSON"]


def test_lazy_loading_that_the_scheme_does_not_bear_is_named(exported: Make, tmp_path: Path) -> None:
    for scheme, lazy in (("nvfp4", True), ("fp8-b128-deepgemm", None)):
        copy = exported(scheme).copied(tmp_path / scheme)
        change_json(copy / f"lightx2v_{scheme}.json", lazy_load=lazy)
        assert "lazy_load is" in failures(copy, exported(scheme))["runtime JSON"]


def test_a_config_that_overrides_the_runtime_or_lacks_sizes_is_named(exported: Make, tmp_path: Path) -> None:
    made = exported("int8-vllm")
    copy = made.copied(tmp_path / "copy")
    change_json(copy / "config.json", target_height=480)
    found = failures(copy, made)
    assert found.keys() == {"config.json", "network settings"}
    assert found["config.json"] == "target_height in config.json would override the runtime JSON"
    change_json(copy / "config.json", target_height=None, ffn_dim=None)
    assert failures(copy, made) == {"config.json": "config.json lacks ffn_dim"}


def test_sizes_that_no_tile_covers_are_named(exported: Make, tmp_path: Path) -> None:
    made = exported("mxfp8")
    copy = made.copied(tmp_path / "copy")
    change_json(copy / "config.json", ffn_dim=500)  # told by the file alone
    found = {v.rule: "\n".join(v.problems) for v in verify(copy).verdicts}
    assert "500 outputs and 256 inputs" in found["alignment"]


def test_an_index_that_is_wrong_is_named(exported: Make, tmp_path: Path) -> None:
    made = exported("int8-vllm")
    copy = made.copied(tmp_path / "copy")
    weight_map = dict.fromkeys(load_file(copy / NAME), NAME)
    del weight_map[f"{Q}.weight"]
    (copy / f"{NAME}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert f"is wrong about {Q}.weight" in failures(copy, made)["layout"]
