"""Layouts of the original repositories: as diffusers converts them, there and back, and as sources of a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from llmc.errors import AdapterError
from llmc.models.base import Fused, ModelAdapter, Swapped, adapters
from llmc.models.original import from_original, read_weights, to_original
from tests.tiny_pipelines import TINY

FAMILIES = ("Flux", "HunyuanVideo", "SD3")
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


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "transformer" / "diffusion_pytorch_model.safetensors")


def original_of(family: str, folder: Path) -> dict[str, torch.Tensor]:
    (part,) = adapters()[family]().skeleton(folder)
    return to_original(weights(folder), adapters()[family].original(part.module))


PUBLISHED = {  # of the real width, which diffusers' conversions have written down, with few blocks
    "Flux": {"num_layers": 2, "num_single_layers": 2, "guidance_embeds": True},
    "HunyuanVideo": {"num_layers": 2, "num_single_layers": 2},
    "SD3": {"num_layers": 3, "num_attention_heads": 2, "caption_projection_dim": 128, "qk_norm": "rms_norm",
            "dual_attention_layers": [0, 1], "pos_embed_max_size": 8},
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
    (part,) = adapters()[family]().skeleton(tmp_path)
    state, first = {}, 0
    for name, tensor in part.module.state_dict().items():  # rows count, columns are never looked at: one is enough
        rows = torch.arange(first, first + len(tensor)).float()
        state[name] = rows if tensor.ndim == 1 else rows[:, None]
        first += len(tensor)
    converted = convert(to_original(state, adapters()[family].original(part.module)))
    assert converted.keys() == state.keys()
    assert [name for name in state if not torch.equal(converted[name], state[name])] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_both_layouts_of_the_same_weights_load_as_the_same_network(family: str, saved: Saved, tmp_path: Path) -> None:
    source, adapter = saved(family), adapters()[family]()
    original = original_of(family, source)
    if family == "HunyuanVideo":
        file = tmp_path / "mp_rank_00_model_states.pt"
        torch.save({"module": original}, file)
    else:
        file = tmp_path / "single.safetensors"
        save_file({f"model.diffusion_model.{name}": t.contiguous() for name, t in original.items()}, file)
    rest = tmp_path / "rest"
    shutil.copytree(source, rest)
    (rest / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    one = adapter.load(source, "auto", "cpu").transformer
    two = adapter.load(rest, "auto", "cpu", transformer=file).transformer
    assert type(one) is type(two) and one.config == {**two.config, "_name_or_path": one.config["_name_or_path"]}
    ours, theirs = one.state_dict(), two.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) and ours[name].dtype == theirs[name].dtype for name in ours)
    half = adapter.load(rest, "bfloat16", "cpu", transformer=file)
    assert half.transformer.dtype == half.text_encoder.dtype == torch.bfloat16


def test_a_file_of_another_variant_is_refused_with_the_tensors_that_tell(saved: Saved, tmp_path: Path) -> None:
    adapter, original = adapters()["Flux"](), original_of("Flux", saved("Flux"))
    unguided = {name: tensor for name, tensor in original.items() if "guidance_in" not in name}
    save_file(unguided, tmp_path / "schnell.safetensors")
    with pytest.raises(AdapterError, match=r"they lack guidance_in\.in_layer\.bias"):
        adapter.load(saved("Flux"), "auto", "cpu", transformer=tmp_path / "schnell.safetensors")
    save_file({**original, "extra.weight": torch.zeros(1)}, tmp_path / "more.safetensors")
    with pytest.raises(AdapterError, match=r"they also have extra\.weight"):
        adapter.load(saved("Flux"), "auto", "cpu", transformer=tmp_path / "more.safetensors")
    save_file({**original, "img_in.weight": torch.zeros(64, 8)}, tmp_path / "narrow.safetensors")
    with pytest.raises(AdapterError, match=r"x_embedder\.weight \(64, 8\), not \(64, 16\)"):
        adapter.load(saved("Flux"), "auto", "cpu", transformer=tmp_path / "narrow.safetensors")


def test_weights_that_were_rounded_before_are_refused(saved: Saved, tmp_path: Path) -> None:
    rounded = {name: tensor.to(torch.float8_e4m3fn) for name, tensor in original_of("Flux", saved("Flux")).items()}
    save_file(rounded, tmp_path / "flux1-dev-fp8.safetensors")
    with pytest.raises(AdapterError, match=r"most weights are torch\.float8_e4m3fn"):
        adapters()["Flux"]().load(saved("Flux"), "auto", "cpu", transformer=tmp_path / "flux1-dev-fp8.safetensors")


def test_what_is_no_file_of_weights_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"not at all")
    torch.save({"module": {"step": 3}}, tmp_path / "strange.pt")
    torch.save(ModelAdapter, tmp_path / "code.pt")
    for name, words in (("broken.safetensors", "cannot be read"), ("strange.pt", "found step"), ("code.pt", "cannot")):
        with pytest.raises(AdapterError, match=words):
            read_weights(tmp_path / name)


def test_fused_rows_and_swapped_halves_come_back_with_everything_that_a_quantized_layer_has() -> None:
    table = (("a.{}.x", "b.{}.y"), Fused(("a.{}.q", "a.{}.m"), "b.{}.qm", shares=(1, 3)), Swapped("out", "last.1"))
    tensors = {
        "a.7.x.weight": torch.rand(2, 2),
        "a.7.q.weight": torch.randint(-127, 127, (2, 5), dtype=torch.int8),
        "a.7.q.weight_scale": torch.rand(2, 1),
        "a.7.m.weight": torch.randint(-127, 127, (6, 5), dtype=torch.int8),
        "a.7.m.weight_scale": torch.rand(6, 1),
        "out.bias": torch.tensor([1.0, 2.0, 3.0, 4.0]),
    }
    there = to_original(tensors, table)
    assert there.keys() == {"b.7.y.weight", "b.7.qm.weight", "b.7.qm.weight_scale", "last.1.bias"}
    assert there["b.7.qm.weight"].dtype == torch.int8 and there["last.1.bias"].tolist() == [3, 4, 1, 2]
    back = from_original(there, table, tensors)
    assert back.keys() == tensors.keys() and all(torch.equal(back[name], tensors[name]) for name in tensors)
    with pytest.raises(AdapterError, match=r"missing: a\.7\.q\.weight$"):
        to_original({"a.7.m.weight": torch.rand(6, 5)}, table)
    with pytest.raises(AdapterError, match=r"has 9 rows"):
        from_original({"b.7.qm.weight": torch.rand(9, 5)}, table, ["a.7.q.weight", "a.7.m.weight"])
    with pytest.raises(AdapterError, match=r"c\.1\.x\.weight stands in no row"):
        to_original({"c.1.x.weight": torch.rand(1)}, table)
