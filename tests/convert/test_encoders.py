"""Encoders in the names of Wan's release: exact in both directions, and read from either kind of file."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llmc.convert.encoders import UNREAD, load_encoder, naming_of_release, to_release
from llmc.convert.writer import write_checkpoint
from llmc.errors import ExportError
from llmc.export.part import LazyTensor, kept
from tests.models.tiny_encoders import tiny_encoder

CLASSES = ["UMT5EncoderModel", "CLIPVisionModel"]


def own_tensors(module: torch.nn.Module) -> dict[str, LazyTensor]:
    return {name: kept(parameter) for name, parameter in module.named_parameters()}


def write_original(module: torch.nn.Module, folder: Path, more: dict[str, torch.Tensor] | None = None) -> Path:
    """As Wan's release keeps it: a .pth, and in it what other models read."""
    tensors = to_release(type(module).__name__, own_tensors(module))
    tensors |= {name: kept(tensor) for name, tensor in (more or {}).items()}
    return write_checkpoint(folder, tensors, "single", stem="models", suffix=".pth")[0]


def emptied(module: torch.nn.Module) -> torch.nn.Module:
    for parameter in module.parameters():
        parameter.data.zero_()
    return module


@pytest.mark.parametrize("name", CLASSES)
def test_there_and_back_is_the_identity(name: str) -> None:
    module = tiny_encoder(name)[0].module
    own = own_tensors(module)
    there = to_release(name, own)
    assert all(tensor.make().shape == tuple(tensor.shape) for tensor in there.values())
    naming = naming_of_release(name, own)
    assert naming is not None
    back = naming.to_ours({key: tensor for key, tensor in there.items() if key not in UNREAD})
    assert back.keys() == own.keys()
    for key, tensor in own.items():
        assert torch.equal(back[key].make(), tensor.make()) and tuple(back[key].shape) == tensor.shape


def test_the_names_are_those_of_the_release() -> None:
    umt5 = to_release("UMT5EncoderModel", own_tensors(tiny_encoder("UMT5EncoderModel")[0].module))
    leaves = ["norm1", "attn.q", "attn.k", "attn.v", "attn.o", "norm2", "ffn.gate.0", "ffn.fc1", "ffn.fc2",
              "pos_embedding.embedding"]  # fmt: skip
    blocks = {f"blocks.{i}.{leaf}.weight" for i in (0, 1) for leaf in leaves}
    assert umt5.keys() == {"token_embedding.weight", "norm.weight", *blocks}
    clip = to_release("CLIPVisionModel", own_tensors(tiny_encoder("CLIPVisionModel")[0].module))
    modules = ["norm1", "attn.to_qkv", "attn.proj", "norm2", "mlp.0", "mlp.2"]
    blocks = {f"visual.transformer.{i}.{module}.{leaf}" for i in (0, 1, 2) for module in modules
              for leaf in ("weight", "bias")}  # fmt: skip
    norms = {f"visual.{norm}.{leaf}" for norm in ("pre_norm", "post_norm") for leaf in ("weight", "bias")}
    bare = {"visual.patch_embedding.weight", "visual.cls_embedding", "visual.pos_embedding", "visual.head", "log_scale"}
    assert clip.keys() == blocks | norms | bare
    assert tuple(clip["visual.transformer.0.attn.to_qkv.weight"].shape) == (96, 32)
    assert tuple(clip["visual.cls_embedding"].shape) == (1, 1, 32)
    assert tuple(clip["visual.pos_embedding"].shape) == (1, 5, 32)


@pytest.mark.parametrize("name", CLASSES)
def test_weights_of_the_release_fill_the_encoder_of_a_pipeline(name: str, tmp_path: Path) -> None:
    module = tiny_encoder(name)[0].module
    wanted = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    others = {"textual.norm.weight": torch.ones(2), "visual.head": torch.ones(2, 2), "log_scale": torch.ones([])}
    path = write_original(module, tmp_path, others if name == "CLIPVisionModel" else None)
    load_encoder(emptied(module), path)
    assert all(torch.equal(tensor, wanted[key]) for key, tensor in module.state_dict().items())


@pytest.mark.parametrize("name", ["UMT5EncoderModel", "CLIPVisionModel", "CLIPTextModel", "T5EncoderModel"])
def test_a_folder_of_transformers_fills_it_too(name: str, tmp_path: Path) -> None:
    module = tiny_encoder(name)[0].module
    wanted = {key: tensor.clone() for key, tensor in module.state_dict().items()}
    module.save_pretrained(tmp_path)  # type: ignore[operator]
    load_encoder(emptied(module), tmp_path)
    assert all(torch.equal(tensor, wanted[key]) for key, tensor in module.state_dict().items())


def test_files_of_older_transformers_have_a_prefix_a_buffer_and_tied_weights(tmp_path: Path) -> None:
    clip = tiny_encoder("CLIPVisionModel")[0].module
    old = {f"vision_model.{name}": tensor.clone() for name, tensor in clip.state_dict().items()}
    save_file(old | {"vision_model.embeddings.position_ids": torch.arange(5)[None]}, tmp_path / "model.safetensors")
    load_encoder(emptied(clip), tmp_path / "model.safetensors")
    assert torch.equal(clip.state_dict()["post_layernorm.bias"], old["vision_model.post_layernorm.bias"])
    umt5 = tiny_encoder("UMT5EncoderModel")[0].module
    save_file({name: tensor.clone() for name, tensor in umt5.state_dict().items() if name != "shared.weight"},
              tmp_path / "umt5.safetensors")  # fmt: skip
    wanted = umt5.state_dict()["shared.weight"].clone()
    load_encoder(emptied(umt5), tmp_path / "umt5.safetensors")
    assert torch.equal(umt5.state_dict()["shared.weight"], wanted)


def test_what_is_missing_left_over_or_of_another_shape_is_refused(tmp_path: Path) -> None:
    module = tiny_encoder("CLIPVisionModel")[0].module
    tensors = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    del tensors["pre_layrnorm.bias"]
    tensors |= {"stranger": torch.ones(1), "post_layernorm.bias": torch.ones(3)}
    tensors["encoder.layers.0.mlp.fc1.weight"] = tensors["encoder.layers.0.mlp.fc1.weight"].to(torch.int8)
    save_file(tensors, tmp_path / "model.safetensors")
    before = tensors["post_layernorm.weight"].clone()
    with pytest.raises(ExportError) as error:
        load_encoder(emptied(module), tmp_path / "model.safetensors")
    for said in ("lacks 1: pre_layrnorm.bias", "besides 1: stranger", "post_layernorm.bias (3,)", "torch.int8"):
        assert said in str(error.value)
    assert not torch.equal(module.state_dict()["post_layernorm.weight"], before)  # nothing was read


def test_unknown_names_in_a_file_of_the_release_are_refused(tmp_path: Path) -> None:
    module = tiny_encoder("UMT5EncoderModel")[0].module
    path = write_original(module, tmp_path, {"blocks.0.attn.q_norm.weight": torch.ones(2)})
    with pytest.raises(ExportError, match=r"blocks\.0\.attn\.q_norm\.weight"):
        load_encoder(module, path)
