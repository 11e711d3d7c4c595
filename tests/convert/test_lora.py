import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llmc.convert.codes import quantized_layers
from llmc.convert.lora import Lora, with_loras
from llmc.convert.names import Known, Names
from llmc.convert.rename import Renamer
from llmc.convert.safetensors_file import LazyTensor
from llmc.errors import ExportError
from llmc.models.wan import LIGHTX2V
from llmc.renames import Fused, Original, Renames
from tests.convert.tiny import lazy, saved, tiny_wan

WAN = Renamer(LIGHTX2V)
RANK, ALPHA, STRENGTH = 4, 2, 0.5
LINEARS = (
    "blocks.0.attn1.to_q",
    "blocks.1.attn2.to_out.0",
    "blocks.1.attn2.add_k_proj",
    "blocks.1.ffn.net.0.proj",
    "condition_embedder.text_embedder.linear_1",
    "condition_embedder.time_embedder.linear_2",
    "condition_embedder.time_proj",
    "condition_embedder.image_embedder.ff.net.2",
    "proj_out",
)


def ours(module: str) -> str:
    return module


def original(module: str) -> str:
    return WAN.forward(module)


def flat(module: str) -> str:
    return module.replace(".", "_")


def eighths(*shape: int) -> Tensor:
    """Values whose products and sums are exact, in whatever order they are taken."""
    return torch.randint(-8, 9, shape) / 8


def merge_lora(network: torch.nn.Module, path: Path, strength: float, tables: Iterable[Original] = ()) -> int:
    """Make every parameter with a LoRA added; returns how many modules changed."""
    before = {name: Known(parameter.detach()) for name, parameter in network.named_parameters()}
    after = with_loras(before, [Lora(path, strength)], map(Names, tables))
    changed = [name for name in before if after[name] is not before[name]]
    for name in changed:
        network.get_parameter(name).data = after[name].make()
    return len({name.rpartition(".")[0] for name in changed})


def halves(network: torch.nn.Module, modules: tuple[str, ...] = LINEARS) -> dict[str, tuple[Tensor, Tensor]]:
    """Module -> up and down of a LoRA for it."""
    sizes = {module: network.get_parameter(f"{module}.weight").flatten(1).shape for module in modules}
    return {module: (eighths(rows, RANK), eighths(RANK, columns)) for module, (rows, columns) in sizes.items()}


def sums(network: torch.nn.Module, lora: dict[str, tuple[Tensor, Tensor]], scale: float) -> dict[str, Tensor]:
    """What the formula makes of every parameter: a float64 sum, rounded once."""
    expected = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    for module, (up, down) in lora.items():
        weight = expected[f"{module}.weight"]
        delta = scale * (up.double() @ down.double()).reshape(weight.shape)
        expected[f"{module}.weight"] = (weight.double() + delta).float().to(weight.dtype)
    return expected


def assert_is(network: torch.nn.Module, expected: dict[str, Tensor]) -> None:
    found = dict(network.named_parameters())
    assert found.keys() == expected.keys()
    assert [name for name in found if not torch.equal(found[name], expected[name])] == []


def pairs(lora: dict[str, tuple[Tensor, Tensor]], name: Callable[[str], str], endings: str) -> dict[str, Tensor]:
    """The tensors of a file, whose keys end as `endings` says: down, a blank, up."""
    down_ending, up_ending = endings.split()
    tensors: dict[str, Tensor] = {}
    for module, (up, down) in lora.items():
        tensors |= {name(module) + down_ending: down, name(module) + up_ending: up}
    return tensors


@pytest.mark.parametrize(
    ("prefix", "name", "endings"),
    [
        ("transformer.", ours, ".lora_A.weight .lora_B.weight"),
        ("diffusion_model.", original, ".lora_A.weight .lora_B.weight"),
        ("diffusion_model.", original, ".lora_down.weight .lora_up.weight"),
        ("model.diffusion_model.", original, ".lora_down.weight .lora_up.weight"),
        ("base_model.model.", ours, ".lora_A.default.weight .lora_B.default.weight"),
        ("base_model.model.transformer.", ours, ".lora_A.weight .lora_B.weight"),
        ("transformer.", ours, ".lora.down.weight .lora.up.weight"),
        ("", ours, ".lora.down .lora.up"),
        ("transformer.", ours, "_lora.down.weight _lora.up.weight"),
        ("", ours, ".lora_linear_layer.down.weight .lora_linear_layer.up.weight"),
        ("", original, ".lora_A .lora_B"),
        ("", ours, ".lora_A.weight .lora_B.weight"),
        ("", original, ".lora_A.default.weight .lora_B.default.weight"),
        ("lora_unet_", lambda module: flat(original(module)), ".lora_down.weight .lora_up.weight"),
        ("lora_unet__", lambda module: flat(original(module)), ".lora_down.weight .lora_up.weight"),
        ("lora_unet_", flat, ".lora_down.weight .lora_up.weight"),
        ("lora_transformer_", flat, ".lora_down.weight .lora_up.weight"),
        ("lycoris_", flat, ".lora_down.weight .lora_up.weight"),
    ],
)
@pytest.mark.parametrize("alpha", [None, ALPHA])
def test_every_style_of_keys_adds_strength_times_alpha_over_rank_times_up_times_down(
    tmp_path: Path, prefix: str, name: Callable[[str], str], endings: str, alpha: int | None
) -> None:
    network = tiny_wan("i2v")
    lora = halves(network)
    expected = sums(network, lora, STRENGTH * (1 if alpha is None else alpha / RANK))
    tensors = pairs(lora, lambda module: prefix + name(module), endings)
    if alpha is not None:
        tensors |= {f"{prefix}{name(module)}.alpha": torch.tensor(alpha) for module in lora}
    assert merge_lora(network, saved(tmp_path, tensors), STRENGTH, [LIGHTX2V]) == len(LINEARS)
    assert_is(network, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_precision_weight_is_summed_in_float32_and_rounded_once(tmp_path: Path, dtype: torch.dtype) -> None:
    network = tiny_wan("i2v").to(dtype)
    lora = halves(network)
    expected = sums(network, lora, STRENGTH)
    tensors = {key: tensor.to(dtype) for key, tensor in pairs(lora, ours, ".lora_A.weight .lora_B.weight").items()}
    tensors |= {f"{module}.diff": torch.zeros_like(network.get_parameter(f"{module}.weight")) for module in LINEARS}
    merge_lora(network, saved(tmp_path, tensors), STRENGTH)
    assert_is(network, expected)


@pytest.mark.parametrize("shapes", ["convolution", "flat", "1x1"])
def test_a_convolution_takes_its_own_shape_and_the_flattened_one(tmp_path: Path, shapes: str) -> None:
    network = tiny_wan("i2v")
    lora = halves(network, ("patch_embedding",))
    expected = sums(network, lora, STRENGTH)
    up, down = lora["patch_embedding"]
    if shapes != "flat":
        up = up.reshape(*up.shape, 1, 1, 1)
    down = down.reshape(RANK, 9, 1, 2, 2) if shapes == "convolution" else down
    tensors = pairs({"patch_embedding": (up, down)}, ours, ".lora_down.weight .lora_up.weight")
    merge_lora(network, saved(tmp_path, tensors), STRENGTH)
    assert_is(network, expected)


def test_a_linear_takes_the_shape_of_a_1x1_convolution(tmp_path: Path) -> None:
    network = tiny_wan("t2v")
    lora = halves(network, ("blocks.0.attn1.to_q",))
    expected = sums(network, lora, STRENGTH)
    wide = {module: (up[..., None, None], down[..., None, None]) for module, (up, down) in lora.items()}
    merge_lora(network, saved(tmp_path, pairs(wide, ours, ".lora_down.weight .lora_up.weight")), STRENGTH)
    assert_is(network, expected)


def test_differences_are_added_to_weights_biases_norms_embeddings_and_modulations(tmp_path: Path) -> None:
    network = tiny_wan("i2v")
    differences = {
        "diffusion_model.blocks.0.self_attn.norm_q.diff": "blocks.0.attn1.norm_q.weight",
        "diffusion_model.blocks.0.norm3.diff": "blocks.0.norm2.weight",
        "diffusion_model.blocks.0.norm3.diff_b": "blocks.0.norm2.bias",
        "diffusion_model.blocks.1.ffn.0.diff_b": "blocks.1.ffn.net.0.proj.bias",
        "diffusion_model.blocks.1.diff_m": "blocks.1.scale_shift_table",
        "diffusion_model.head.diff_m": "scale_shift_table",
        "diffusion_model.head.head.diff": "proj_out.weight",
        "diffusion_model.patch_embedding.diff": "patch_embedding.weight",
        "diffusion_model.time_projection.1.diff_b": "condition_embedder.time_proj.bias",
        "diffusion_model.img_emb.proj.0.diff_b": "condition_embedder.image_embedder.norm1.bias",
        "diffusion_model.blocks.0.modulation.diff": "blocks.0.scale_shift_table",
    }
    expected = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    tensors = {}
    for key, name in differences.items():
        tensors[key] = eighths(*expected[name].shape)
        expected[name] += STRENGTH * tensors[key]
    assert merge_lora(network, saved(tmp_path, tensors), STRENGTH, [LIGHTX2V]) == 10
    assert_is(network, expected)


def test_a_pair_and_differences_of_one_module_are_all_added(tmp_path: Path) -> None:
    network = tiny_wan("t2v")
    torch.nn.init.zeros_(network.proj_out.bias)  # so that two sums in a row are exact
    lora = halves(network, ("proj_out",))
    expected = sums(network, lora, ALPHA / RANK)
    rest = {
        "alpha": torch.tensor(ALPHA),
        "diff": torch.zeros(16, 24),
        "diff_b": eighths(16),
        "lora_B.bias": eighths(16),
    }
    expected["proj_out.bias"] += rest["diff_b"] + ALPHA / RANK * rest["lora_B.bias"]
    tensors = pairs(lora, ours, ".lora_A.weight .lora_B.weight") | {f"proj_out.{key}": rest[key] for key in rest}
    assert merge_lora(network, saved(tmp_path, tensors), 1.0) == 1
    assert_is(network, expected)


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"lora_alpha": 2}, {"proj_out": 0.5, "blocks.0.attn1.to_q": 0.5}),
        ({"lora_alpha": 2, "use_rslora": True}, {"proj_out": 1, "blocks.0.attn1.to_q": 1}),
        ({"lora_alpha": 2, "alpha_pattern": {"attn1.to_q": 8}}, {"proj_out": 0.5, "blocks.0.attn1.to_q": 2}),
        ({"r": 4}, {"proj_out": 1, "blocks.0.attn1.to_q": 1}),
    ],
)
@pytest.mark.parametrize("writer", ["diffusers", "a diffusers pipeline", "peft"])
def test_an_alpha_that_is_written_beside_the_tensors_counts(
    tmp_path: Path, config: dict[str, Any], scale: dict[str, float], writer: str
) -> None:
    network = tiny_wan("t2v")
    lora = halves(network, tuple(scale))
    expected = sums(network, {module: (scale[module] * up, down) for module, (up, down) in lora.items()}, STRENGTH)
    if writer == "peft":
        tensors = pairs(lora, lambda module: f"base_model.model.{module}", ".lora_A.weight .lora_B.weight")
        saved(tmp_path, tensors, name="adapter_model")
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    else:
        prefix = "transformer." if writer == "a diffusers pipeline" else ""
        metadata = {"lora_adapter_metadata": json.dumps({prefix + key: value for key, value in config.items()})}
        saved(tmp_path, pairs(lora, lambda module: prefix + module, ".lora_A.weight .lora_B.weight"), metadata)
    merge_lora(network, tmp_path, STRENGTH)
    assert_is(network, expected)


def test_loras_add_up_and_the_opposite_strength_takes_one_away(tmp_path: Path) -> None:
    network = tiny_wan("t2v").double()
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    path = saved(tmp_path, pairs(halves(network, ("proj_out",)), ours, ".lora_A.weight .lora_B.weight"))
    merge_lora(network, path, 1.0)
    assert not torch.equal(network.get_parameter("proj_out.weight"), before["proj_out.weight"])
    merge_lora(network, path, -1.0)
    torch.testing.assert_close(dict(network.named_parameters()), before)


GOOD = {"proj_out.lora_A.weight": torch.ones(RANK, 24), "proj_out.lora_B.weight": torch.ones(16, RANK)}
TO_Q = "blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"blocks.9.attn1.to_q.diff": torch.ones(24, 24)}, r"blocks\.9\.attn1\.to_q\.diff: the network has no such"),
        ({"text_encoder.q.diff": torch.ones(2)}, r"text_encoder\.q\.diff: the network has no such parameter"),
        ({"blocks.0.attn1.norm_q.diff_b": torch.ones(24)}, r"norm_q\.diff_b: the network has no such parameter"),
        ({f"{TO_Q}.lora_A.weight": torch.ones(RANK, 24)}, r"to_q\.lora_A\.weight: without lora_B"),
        ({f"{TO_Q}.lora_up.weight": torch.ones(24, RANK)}, r"to_q\.lora_up\.weight: without lora_A"),
        ({f"{TO_Q}.alpha": torch.tensor(1.0)}, r"to_q\.alpha: without lora_A \(or lora_down\) and lora_B"),
        (
            {f"{TO_Q}.lora_A.weight": torch.ones(RANK, 25), f"{TO_Q}.lora_B.weight": torch.ones(24, RANK)},
            r"\(24, 25\) cannot be added to blocks\.0\.attn1\.to_q\.weight \(24, 24\)",
        ),
        (
            {f"{TO_Q}.lora_A.weight": torch.ones(RANK, 24), f"{TO_Q}.lora_B.weight": torch.ones(24, 3)},
            r"lora_A\.weight \(4, 24\): shares no rank with .*lora_B\.weight \(24, 3\)",
        ),
        (
            {f"{TO_Q}.lora_A.weight": torch.ones(0, 24), f"{TO_Q}.lora_B.weight": torch.ones(24, 0)},
            "shares no rank",
        ),
        ({"patch_embedding.diff": torch.ones(24, 2, 1, 2, 4)}, r"\(24, 2, 1, 2, 4\) cannot be added"),
        ({"scale_shift_table.diff": torch.tensor(1.0)}, r"\(\) cannot be added to scale_shift_table \(1, 2, 24\)"),
        ({f"{TO_Q}.diff": torch.ones(24, 24, dtype=torch.int8)}, r"stored as torch\.int8, not as floats"),
        (GOOD | {"proj_out.alpha": torch.ones(2)}, r"proj_out\.alpha \(2,\): not one number"),
        ({"blocks.0.attn1.to_q.weight": torch.ones(24, 24)}, r"to_q\.weight: not a key of a LoRA"),
        ({"proj_out.lora_mid.weight": torch.ones(4, 4)}, r"lora_mid\.weight: not a key of a LoRA"),
        ({"transformer.proj_out.diff": torch.ones(16, 24)}, r"transformer\.proj_out: proj_out is the same module"),
        (
            {"proj_out.lora_A.other.weight": torch.ones(RANK, 24)},
            r"proj_out\.lora_A\.weight: a file holds one LoRA, but proj_out\.lora_A\.other\.weight is there too",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_changed(
    tmp_path: Path, tensors: dict[str, Tensor], message: str
) -> None:
    network = tiny_wan("t2v")
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    with pytest.raises(ExportError, match=message) as refused:
        merge_lora(network, saved(tmp_path, GOOD | tensors), 1.0, [LIGHTX2V])
    assert "does not fit the network, which was not changed" in str(refused.value)
    assert "give a LoRA that was trained for this very model" in str(refused.value)
    assert_is(network, before)


def test_of_many_problems_a_few_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    path = saved(tmp_path, {f"blocks.{i}.attn1.to_q.diff": torch.ones(24, 24) for i in range(20)})
    with pytest.raises(ExportError, match="and 10 more") as refused:
        merge_lora(tiny_wan("t2v"), path, 1.0)
    assert str(refused.value).count("no such parameter") == 8


def test_a_flat_name_that_fits_two_modules_is_refused(tmp_path: Path) -> None:
    inner = torch.nn.ModuleDict({"to_q": torch.nn.Linear(4, 4)})
    network = torch.nn.ModuleDict({"attn": inner, "attn_to_q": torch.nn.Linear(4, 4)})
    flat_path = saved(tmp_path, {"lora_unet_attn_to_q.diff": torch.ones(4, 4)})
    with pytest.raises(ExportError, match=r"may mean attn\.to_q\.weight or attn_to_q\.weight"):
        merge_lora(network, flat_path, 1.0)
    assert merge_lora(network, saved(tmp_path, {"attn_to_q.diff": torch.ones(4, 4)}), 1.0) == 1


def test_a_name_that_two_schemes_give_to_two_modules_is_refused(tmp_path: Path) -> None:
    network = torch.nn.ModuleDict({"q": torch.nn.Linear(4, 4), "k": torch.nn.Linear(4, 4)})
    swapped: Renames = (("q", "k"), ("k", "q"))
    with pytest.raises(ExportError, match=r"q\.diff: may mean k\.weight or q\.weight"):
        merge_lora(network, saved(tmp_path, {"q.diff": torch.ones(4, 4)}), 1.0, [swapped])


FUSED = Names((("o", "out"), Fused(("q", "k", "v"), "qkv")))


def projections(dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    return {f"{name}.weight": torch.rand(6, 5, dtype=dtype) for name in "qkvo"}


def values(tensors: Mapping[str, LazyTensor]) -> dict[str, Tensor]:
    return {name: tensor.make() for name, tensor in tensors.items()}


@pytest.mark.parametrize("key", ["qkv", "diffusion_model.qkv", "lora_unet_qkv"])
def test_a_lora_of_a_fused_layer_gives_each_of_ours_its_rows(tmp_path: Path, key: str) -> None:
    weights = projections()
    up, down = eighths(18, RANK), eighths(RANK, 5)
    path = saved(tmp_path, {f"{key}.lora_up.weight": up, f"{key}.lora_down.weight": down})
    merged = values(with_loras({n: lazy(t) for n, t in weights.items()}, [Lora(path, STRENGTH)], [FUSED]))
    for index, name in enumerate("qkv"):
        rows = slice(6 * index, 6 * index + 6)
        assert torch.equal(merged[f"{name}.weight"], weights[f"{name}.weight"] + STRENGTH * (up[rows] @ down))
    assert torch.equal(merged["o.weight"], weights["o.weight"])


def test_a_lora_of_one_of_ours_changes_its_rows_of_a_fused_layer(tmp_path: Path) -> None:
    weights = projections()
    whole = FUSED.to_original({name: lazy(tensor) for name, tensor in weights.items()})
    lora = {"k": (eighths(6, RANK), eighths(RANK, 5)), "o": (eighths(6, RANK), eighths(RANK, 5))}
    path = saved(tmp_path, pairs(lora, ours, ".lora_A.weight .lora_B.weight"))
    merged = FUSED.to_ours({n: lazy(t) for n, t in values(with_loras(whole, [Lora(path)], [FUSED])).items()})
    for name in "qkvo":
        expected = weights[f"{name}.weight"]
        if name in lora:
            expected = expected + lora[name][0] @ lora[name][1]
        assert torch.equal(merged[f"{name}.weight"].make(), expected)


def test_several_loras_of_different_schemes_are_summed_in_float32_and_rounded_once(tmp_path: Path) -> None:
    weights = projections(torch.bfloat16)
    first, second = (eighths(6, RANK), eighths(RANK, 5)), (eighths(18, RANK), eighths(RANK, 5))
    loras = [
        Lora(saved(tmp_path, pairs({"q": first}, ours, ".lora_A.weight .lora_B.weight"), name="a"), 0.5),
        Lora(
            saved(tmp_path, pairs({"qkv": second}, ours, ".lora_down.weight .lora_up.weight"), name="b"), 0.25, alpha=2
        ),
    ]
    merged = values(with_loras({n: lazy(t) for n, t in weights.items()}, loras, [FUSED]))
    total = weights["q.weight"].double() + 0.5 * (first[0] @ first[1]) + 0.25 * 2 / RANK * (second[0][:6] @ second[1])
    assert torch.equal(merged["q.weight"], total.float().bfloat16())


def test_a_fused_layer_and_one_of_its_parts_in_one_file_are_refused(tmp_path: Path) -> None:
    tensors = {"qkv.diff": torch.ones(18, 5), "k.diff": torch.ones(6, 5)}
    path = saved(tmp_path, tensors)
    weights = {name: lazy(tensor) for name, tensor in projections().items()}
    for there in (weights, FUSED.to_original(weights)):
        with pytest.raises(ExportError, match="is the same module"):
            with_loras(there, [Lora(path)], [FUSED])


def test_rows_that_cannot_be_those_of_the_fused_layer_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, {"qkv.diff": torch.ones(17, 5)})
    with pytest.raises(ExportError, match=r"\(17, 5\) has not the 18 rows of q\.weight, k\.weight, v\.weight"):
        with_loras({name: lazy(tensor) for name, tensor in projections().items()}, [Lora(path)], [FUSED])


@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
@pytest.mark.parametrize("key", ["q.diff", "q.diff_b", "qkv.diff_b"])
def test_codes_take_no_lora_and_neither_does_the_bias_beside_them(tmp_path: Path, key: str, dtype: torch.dtype) -> None:
    rows = 18 if key.startswith("qkv") else 6
    path = saved(tmp_path, {key: torch.ones(rows) if key.endswith("_b") else torch.ones(rows, 5)})
    weights = {name: lazy(tensor.to(dtype)) for name, tensor in projections().items()}
    weights |= {f"{name}.bias": lazy(torch.zeros(6)) for name in "qkvo"}
    with pytest.raises(ExportError, match=r"q holds codes, .* merge LoRAs before quantizing"):
        with_loras(weights, [Lora(path)], [FUSED])


def test_of_a_quantized_checkpoint_what_stayed_float_takes_a_lora(tmp_path: Path) -> None:
    weights = {"q.weight": torch.ones(6, 5, dtype=torch.int8), "norm.weight": torch.ones(5), "norm.bias": torch.ones(5)}
    path = saved(tmp_path, {"norm.diff_b": torch.ones(5)})
    merged = values(with_loras({name: lazy(tensor) for name, tensor in weights.items()}, [Lora(path)], []))
    assert merged["norm.bias"].tolist() == [2.0] * 5


def test_weights_with_a_scale_beside_them_are_codes_whatever_their_type() -> None:
    scaled = {"q.weight": torch.bfloat16, "q.weight_scale": torch.float32}
    dtypes = {**scaled, "k.qweight": torch.int32, "k.bias": torch.half, "v.weight": torch.half, "ids": torch.int64}
    assert quantized_layers(dtypes) == ["q", "k"]


@pytest.mark.parametrize("ending", ["lora_A.weight", "lora_B.weight"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_file_that_does_not_hold_numbers_is_refused_by_name(tmp_path: Path, ending: str, value: float) -> None:
    tensors = {"q.lora_A.weight": torch.ones(2, 5), "q.lora_B.weight": torch.ones(6, 2)}
    tensors[f"q.{ending}"].view(-1)[-1] = value
    path, weights = saved(tmp_path, tensors), {name: lazy(tensor) for name, tensor in projections().items()}
    with pytest.raises(ExportError, match=rf"lora\.safetensors holds NaN or infinity: q\.{ending}"):
        with_loras(weights, [Lora(path)], [FUSED])


def test_a_strength_that_is_no_number_is_refused(tmp_path: Path) -> None:
    weights = {name: lazy(tensor) for name, tensor in projections().items()}
    with pytest.raises(ExportError, match=r"holds NaN or infinity: strength x alpha / rank of q\.diff"):
        with_loras(weights, [Lora(saved(tmp_path, {"q.diff": torch.ones(6, 5)}), float("nan"))], [FUSED])
