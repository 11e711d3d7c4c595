"""Networks from elsewhere than their pipeline's folder: the layout that diffusers converts, and every tensor counts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmc.config.schema import ModelConfig
from llmc.convert.names import Known, Names
from llmc.engine.lending import Lending, lent_parts
from llmc.engine.source import load_pipeline, skeleton
from llmc.errors import AdapterError, ExportError
from llmc.models.base import adapters
from tests.tiny_pipelines import TINY

FAMILIES = ("Flux", "HunyuanVideo", "SD3")
WEIGHTS = Path("transformer", "diffusion_pytorch_model.safetensors")
LENDING = Lending(torch.device("cpu"))
Saved = Callable[[str], Path]


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """The folder of a family's tiny pipeline."""
    folders: dict[str, Path] = {}

    def folder(family: str) -> Path:
        if family not in folders:
            folders[family] = tmp_path_factory.mktemp(family)
            TINY[family][0](folders[family])
        return folders[family]

    return folder


def to_original(family: str, folder: Path, state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    (part,) = adapters()[family]().skeleton(folder)
    naming = Names(adapters()[family].original(part.module))
    there = naming.to_original({name: Known(tensor) for name, tensor in state.items()})
    return {name: tensor.make().contiguous() for name, tensor in there.items()}


def load(family: str, folder: Path, file: Path | None = None, torch_dtype: str = "auto") -> torch.nn.Module:
    model = ModelConfig.model_validate(
        {"type": family, "path": str(folder), "transformer": file and str(file), "torch_dtype": torch_dtype}
    )
    network: torch.nn.Module = load_pipeline(model, "cpu").transformer
    return network


PUBLISHED = {  # of the real width, which diffusers' conversions have written down, with few blocks
    "Flux": {
        "_class_name": "FluxTransformer2DModel", "num_layers": 2, "num_single_layers": 2, "guidance_embeds": True
    },
    "HunyuanVideo": {"_class_name": "HunyuanVideoTransformer3DModel", "num_layers": 2, "num_single_layers": 2},
    "SD3": {"_class_name": "SD3Transformer2DModel", "num_layers": 3, "num_attention_heads": 2, "qk_norm": "rms_norm",
            "caption_projection_dim": 128, "dual_attention_layers": [0, 1], "pos_embed_max_size": 8},
}  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_the_original_layout_is_the_one_that_diffusers_converts(family: str, tmp_path: Path) -> None:
    from diffusers.loaders import single_file_utils as theirs

    convert = {
        "Flux": theirs.convert_flux_transformer_checkpoint_to_diffusers,
        "HunyuanVideo": theirs.convert_hunyuan_video_transformer_to_diffusers,
        "SD3": theirs.convert_sd3_transformer_checkpoint_to_diffusers,
    }[family]
    (tmp_path / "transformer").mkdir()
    (tmp_path / "transformer" / "config.json").write_text(json.dumps(PUBLISHED[family]))
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": adapters()[family].pipeline}))
    (part,) = adapters()[family]().skeleton(tmp_path)
    state, first = {}, 0
    for name, tensor in part.module.state_dict().items():  # rows count, columns are never looked at: one is enough
        rows = torch.arange(first, first + len(tensor)).float()
        state[name] = rows if tensor.ndim == 1 else rows[:, None]
        first += len(tensor)
    converted = convert(to_original(family, tmp_path, state))
    assert converted.keys() == state.keys()
    assert [name for name in state if not torch.equal(converted[name], state[name])] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_both_layouts_of_the_same_weights_load_as_the_same_network(family: str, saved: Saved, tmp_path: Path) -> None:
    source = saved(family)
    original = to_original(family, source, load_file(source / WEIGHTS))
    if family == "HunyuanVideo":
        file = tmp_path / "mp_rank_00_model_states.pt"
        torch.save({"module": original}, file)
    else:
        file = tmp_path / "single.safetensors"
        whole = {f"model.diffusion_model.{name}": tensor for name, tensor in original.items()}
        save_file(whole | {"first_stage_model.decoder.bias": torch.ones(1)}, file)
    rest = tmp_path / "rest"
    shutil.copytree(source, rest)
    (rest / WEIGHTS).unlink()
    one, two = load(family, source), load(family, rest, file)
    assert type(one) is type(two)
    assert {**one.config, "_name_or_path": ""} == {**two.config, "_name_or_path": ""}  # type: ignore[dict-item]
    ours, theirs = one.state_dict(), two.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)
    assert load(family, rest, file, "bfloat16").dtype == torch.bfloat16


def test_a_file_of_another_variant_is_refused_with_the_tensors_that_tell(saved: Saved, tmp_path: Path) -> None:
    folder = saved("Flux")
    original = to_original("Flux", folder, load_file(folder / WEIGHTS))
    unguided = {name: tensor for name, tensor in original.items() if "guidance_in" not in name}
    save_file(unguided, tmp_path / "schnell.safetensors")
    with pytest.raises(ExportError, match=r"it lacks 4: guidance_in\.in_layer\.bias"):
        load("Flux", folder, tmp_path / "schnell.safetensors")
    save_file({**original, "extra.weight": torch.zeros(1)}, tmp_path / "more.safetensors")
    with pytest.raises(ExportError, match=r"it has besides 1: extra\.weight"):
        load("Flux", folder, tmp_path / "more.safetensors")
    save_file({**original, "img_in.weight": torch.zeros(64, 8)}, tmp_path / "narrow.safetensors")
    with pytest.raises(ExportError, match=r"img_in\.weight \(64, 8\) instead of \(64, 16\)"):
        load("Flux", folder, tmp_path / "narrow.safetensors")


def test_weights_that_were_rounded_before_are_refused(saved: Saved, tmp_path: Path) -> None:
    folder = saved("Flux")
    original = to_original("Flux", folder, load_file(folder / WEIGHTS))
    rounded = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in original.items()}
    save_file(rounded, tmp_path / "flux1-dev-fp8.safetensors")
    with pytest.raises(ExportError, match=r"it has codes, not floats, in \d+: .* torch\.float8_e4m3fn"):
        load("Flux", folder, tmp_path / "flux1-dev-fp8.safetensors")


def test_rows_of_a_fused_layer_that_have_other_shares_are_refused(saved: Saved, tmp_path: Path) -> None:
    folder = saved("HunyuanVideo")
    original = to_original("HunyuanVideo", folder, load_file(folder / WEIGHTS))
    name = "single_blocks.0.linear1.weight"
    save_file({**original, name: original[name][:-1].contiguous()}, tmp_path / "short.safetensors")
    with pytest.raises(ExportError, match=r"single_blocks\.0\.linear1\.weight .* instead of"):
        load("HunyuanVideo", folder, tmp_path / "short.safetensors")


def test_a_pipeline_folder_without_one_tensor_is_refused_by_its_name(saved: Saved, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(saved("SD3"), folder)
    model = ModelConfig(type="SD3", path=folder)
    parts = skeleton(model, ())
    assert len(lent_parts(model, parts, LENDING)) == 1
    tensors = load_file(folder / WEIGHTS)
    name = next(iter(tensors))
    save_file({key: tensor for key, tensor in tensors.items() if key != name}, folder / WEIGHTS)
    with pytest.raises(AdapterError, match=name):
        lent_parts(model, parts, LENDING)
