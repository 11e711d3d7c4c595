"""Every scheme that LightX2V reads, from the shipped configuration to the file: names, types, shapes, and each value
dequantized by a reader that is written down here once more."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from llmc.__main__ import main
from llmc.convert.rename import Renamer
from llmc.engine.network import Network, as_computed
from llmc.errors import UnsupportedSpec
from llmc.export.fake.transformed import Transformed
from llmc.export.lightx2v.exporter import LightX2V
from llmc.export.lightx2v.runtime import sampling_keys, steps_above
from llmc.export.lightx2v.schemes import SCHEMES, Runtime, find_scheme, served_by
from llmc.export.part import FinishedPart
from llmc.layers.linear import in_mode
from llmc.models.samples import Sampling
from llmc.models.wan import LIGHTX2V, WanI2V
from llmc.models.wan2 import Wan2T2V
from llmc.numerics.quantize import fake_quantize, quantize
from llmc.numerics.spec import LayerSpec, TensorSpec
from tests.end_to_end.small_run import small_config
from tests.export.shipped import SHIPPED, shipped_config
from tests.tiny_pipelines import TINY, save_samples, save_wan_i2v

WIDTH, INNER = 256, 512  # of the tiny network: whole tiles of every kernel
E8M0, E4M3, BYTE = torch.float8_e8m0fnu, torch.float8_e4m3fn, torch.uint8
Golden = dict[str, tuple[torch.dtype, tuple[int, ...]]]
GOLDEN: dict[str, Golden] = {  # of ffn.0, which reads 256 and gives 512
    "int8-vllm": {"weight": (torch.int8, (512, 256)), "weight_scale": (torch.float32, (512, 1))},
    "fp8-vllm": {"weight": (E4M3, (512, 256)), "weight_scale": (torch.float32, (512, 1))},
    "fp8-b128-deepgemm": {"weight": (E4M3, (512, 256)), "weight_scale": (torch.float32, (4, 2))},
    "fp8-pertensor": {
        "weight": (E4M3, (512, 256)), "weight_scale": (torch.float32, (1,)), "input_scale": (torch.float32, (1,)),
    },
    "nvfp4": {
        "weight": (BYTE, (512, 128)), "weight_scale": (E4M3, (512, 16)),
        "alpha": (torch.float32, ()), "input_global_scale": (torch.float32, ()),
    },
    "mxfp4": {"weight": (BYTE, (512, 128)), "weight_scale": (E8M0, (512, 8))},
    "mxfp6-mxfp8": {"weight": (BYTE, (512, 192)), "weight_scale": (E8M0, (512, 8))},
    "mxfp8": {"weight": (BYTE, (512, 256)), "weight_scale": (E8M0, (512, 8))},
    "int4-g128-marlin": {
        "weight": (torch.int32, (16, 1024)), "weight_scale": (torch.float16, (2, 512)),
        "weight_workspace": (torch.int32, (64,)),
    },
}  # fmt: skip


# ---- a reader of its own -------------------------------------------------------------------------------------------


def small_float(bits: Tensor, exponent_bits: int, mantissa_bits: int) -> Tensor:
    """Sign, exponent, mantissa; without infinities."""
    bits = bits.long()
    sign = 1 - 2 * (bits >> (exponent_bits + mantissa_bits) & 1)
    exponent, mantissa = bits >> mantissa_bits & (2**exponent_bits - 1), bits & (2**mantissa_bits - 1)
    bias = 2 ** (exponent_bits - 1) - 1
    value = (mantissa / 2**mantissa_bits + (exponent > 0)) * 2.0 ** (exponent.clamp(min=1) - bias)
    return (sign * value).float()


def stream_of_bits(packed: Tensor, width: int) -> Tensor:
    """Codes of so many bits, from a little-endian stream of bits."""
    ones = packed.long()[..., None] >> torch.arange(8) & 1
    return (ones.flatten(-2).unflatten(-1, (-1, width)) << torch.arange(width)).sum(-1)


def unswizzled(scales: Tensor, rows: int, columns: int) -> Tensor:
    """One by one, by the address of each scale in its tile."""
    values, width = scales.float().flatten(), scales.shape[1]
    r, c = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    tile = r // 128 * (width // 4) + c // 4
    return values[tile * 512 + r % 32 * 16 + r % 128 // 32 * 4 + c % 4]


def blocks_of(t: dict[str, Tensor], exponent_bits: int, mantissa_bits: int, group: int) -> Tensor:
    codes = stream_of_bits(t["weight"], 1 + exponent_bits + mantissa_bits)
    scales = unswizzled(t["weight_scale"], codes.shape[0], codes.shape[1] // group)
    return small_float(codes, exponent_bits, mantissa_bits) * scales.repeat_interleave(group, 1)


def marlin_order() -> list[int]:
    """Where each of 1024 stored codes comes from, in a 16 x 64 tile that is four 16 x 16 ones row by row."""
    order = []
    for lane in range(32):
        first, column = lane % 4 * 2, lane // 4
        eight = [(row, column + half * 8) for half in (0, 1) for row in (first, first + 1, first + 8, first + 9)]
        for tile in range(4):
            order += [tile * 256 + row * 16 + col for row, col in (eight[i] for i in (0, 2, 4, 6, 1, 3, 5, 7))]
    return order


def marlin(t: dict[str, Tensor]) -> Tensor:
    k, n = t["weight"].shape[0] * 16, t["weight"].shape[1] // 2
    codes = (t["weight"].long()[..., None] >> 4 * torch.arange(8) & 15).reshape(-1, 1024)
    tiles = torch.empty_like(codes)
    tiles[:, marlin_order()] = codes
    weight = tiles.reshape(k // 16, n // 16, 16, 16).permute(0, 2, 1, 3).reshape(k, n).T - 8
    places = torch.tensor([i + 8 * j for i in range(8) for j in range(8)])
    scales = torch.empty_like(t["weight_scale"]).reshape(-1, 64)
    scales[:, places] = t["weight_scale"].reshape(-1, 64)
    return weight * scales.reshape(-1, n).T.float().repeat_interleave(128, 1)


READ: dict[str, Callable[[dict[str, Tensor]], Tensor]] = {
    "int8-vllm": lambda t: t["weight"].float() * t["weight_scale"],
    "fp8-vllm": lambda t: t["weight"].float() * t["weight_scale"],
    "fp8-b128-deepgemm": lambda t: (
        t["weight"].float() * t["weight_scale"].repeat_interleave(128, 0).repeat_interleave(128, 1)
    ),
    "fp8-pertensor": lambda t: t["weight"].float() * t["weight_scale"],
    "nvfp4": lambda t: blocks_of(t, 2, 1, 16) * (t["alpha"] * t["input_global_scale"]),
    "mxfp4": lambda t: blocks_of(t, 2, 1, 32),
    "mxfp6-mxfp8": lambda t: blocks_of(t, 3, 2, 32),
    "mxfp8": lambda t: blocks_of(t, 4, 3, 32),
    "int4-g128-marlin": marlin,
}


# ---- every scheme, from the command line to the file ---------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers import WanTransformer3DModel

    folder = tmp_path_factory.mktemp("wan")
    save_wan_i2v(folder / "model")
    torch.manual_seed(0)
    WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=4, attention_head_dim=WIDTH // 4, in_channels=36, out_channels=16,
        text_dim=32, freq_dim=32, ffn_dim=INNER, num_layers=1, cross_attn_norm=True, qk_norm="rms_norm_across_heads",
        rope_max_seq_len=64, image_dim=32, added_kv_proj_dim=WIDTH,
    ).save_pretrained(folder / "model" / "transformer")  # fmt: skip
    save_samples(folder / "samples", 1)
    return folder


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[Network]:
    """The networks of a run, as they are when they are exported."""
    import llmc.run

    found: list[Network] = []
    prepare_all = llmc.run.prepare_all

    def keep(*arguments: Any) -> list[Network]:
        found.extend(prepare_all(*arguments))
        return found

    monkeypatch.setattr(llmc.run, "prepare_all", keep)
    return found


@torch.no_grad()
@pytest.mark.parametrize("scheme", SHIPPED)
def test_a_shipped_scheme_runs_and_its_file_is_what_was_judged(
    folder: Path, tmp_path: Path, judged: list[Network], scheme: str
) -> None:
    assert main(["run", "--config", str(shipped_config(folder, SHIPPED[scheme], tmp_path))]) == 0
    out = tmp_path / "export"
    tensors = {name: t for file in out.glob("*.safetensors") for name, t in load_file(file).items()}
    names = Renamer(LIGHTX2V)
    for name, layer in judged[0].layers.items():
        native = names.forward(f"{name}.weight").removesuffix("weight")
        mine = {leaf.removeprefix(native): t for leaf, t in tensors.items() if leaf.startswith(native)}
        assert mine.keys() == {*GOLDEN[scheme], "bias"}
        if name.endswith("ffn.net.0.proj"):
            assert {leaf: (t.dtype, tuple(t.shape)) for leaf, t in mine.items() if leaf != "bias"} == GOLDEN[scheme]
        assert layer.state.rounded is not None
        assert torch.equal(READ[scheme](mine), layer.state.rounded.dequantize())
        narrow = torch.float16 if scheme == "int4-g128-marlin" else torch.bfloat16
        for leaf in ("weight_scale", "input_scale", "alpha", "input_global_scale"):
            if leaf in mine and mine[leaf].dtype == torch.float32:  # the loader casts these
                assert torch.equal(mine[leaf].to(narrow).float(), mine[leaf]), leaf
    runtime = json.loads((out / f"lightx2v_{scheme}.json").read_text())
    assert runtime["dit_quant_scheme"] == scheme and runtime["dit_quantized_ckpt"] == str(out.resolve())
    assert runtime.get("lazy_load", False) == (scheme == "fp8-b128-deepgemm")
    smoothed = any(".affine_norm" in name for name in tensors)
    assert smoothed == ("quant_method" in runtime) == ("quant_method" in json.loads((out / "config.json").read_text()))


@pytest.mark.parametrize("scheme", ["fp8-pertensor", "nvfp4"])
def test_a_calibrated_range_other_than_the_largest_magnitude_reaches_the_file(
    folder: Path, tmp_path: Path, judged: list[Network], scheme: str
) -> None:
    """Half of all magnitudes: a scale that no rule of the whole range gives."""
    recipe = "[RTN, {name: Static, range: percentile, percentile: 51}]"
    config = shipped_config(folder, SHIPPED[scheme], tmp_path)
    assert main(["run", "--config", str(config), "--set", f"quant.video_gen.method={recipe}"]) == 0
    tensors = load_file(tmp_path / "export" / "diffusion_pytorch_model.safetensors")
    for group in judged[0].groups:
        layer, absmax = group.linears[0], group.stats["range"].abs().max()
        native = Renamer(LIGHTX2V).forward(f"{group.names[0]}.weight").removesuffix(".weight")
        if scheme == "nvfp4":
            reach = 448 * 6 / tensors[f"{native}.input_global_scale"]
        else:
            reach = 448 * tensors[f"{native}.input_scale"]
        assert layer.state.static is not None and reach < absmax / 2


@torch.no_grad()
def test_calibrated_scales_are_those_that_the_fake_quant_model_computes_with(
    folder: Path, tmp_path: Path, judged: list[Network]
) -> None:
    for shipped, leaf in (("nvfp4", "input_global_scale"), ("fp8_pertensor_static", "input_scale")):
        (tmp_path / leaf).mkdir()
        assert main(["run", "--config", str(shipped_config(folder, shipped, tmp_path / leaf))]) == 0
        tensors = load_file(tmp_path / leaf / "export" / "diffusion_pytorch_model.safetensors")
        layer = judged.pop().layers["blocks.0.ffn.net.2"]
        scale = tensors[f"blocks.0.ffn.2.{leaf}"].double()
        x = torch.randn(4, INNER, generator=torch.Generator().manual_seed(0)) * 0.3
        if leaf == "input_scale":
            read = (x / scale).float().clamp(-448, 448).to(E4M3).double() * scale
        else:
            blocks = x.double().reshape(-1, 16)
            sf = (scale * blocks.abs().amax(1, keepdim=True) / 6).clamp(max=448).float().to(E4M3).double()
            codes = small_float(torch.arange(8), 2, 1).double()
            wanted = (blocks * scale / sf).clamp(-6, 6)
            nearest = codes[(wanted.abs()[..., None] - codes).abs().argmin(-1)] * wanted.sign()
            read = (nearest * sf / scale).reshape(x.shape)
        assert layer.state.rounded is not None and layer.bias is not None
        wanted_output = read @ layer.state.rounded.dequantize().double().T + layer.bias
        with in_mode([layer], "quantized"):
            torch.testing.assert_close(layer(x).double(), wanted_output, rtol=1e-4, atol=1e-4)


def test_a_manifest_names_every_file_and_layer_and_a_card_says_what_it_is(folder: Path, tmp_path: Path) -> None:
    assert (
        main(["run", "--config", str(shipped_config(folder, "fp8_pertensor_static", tmp_path, save_trans=True))]) == 0
    )
    out = tmp_path / "export"
    manifest = json.loads((out / "llmc_manifest.json").read_text())
    files = {file.relative_to(out).as_posix() for file in out.rglob("*") if file.is_file()}
    nested = {file for file in files if file.startswith("transformed/")}
    assert set(manifest["files"]) == files - nested - {"llmc_manifest.json"} and nested
    for name, entry in manifest["files"].items():
        content = (out / name).read_bytes()
        assert entry == {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    assert (manifest["target"], manifest["scheme"]) == ("lightx2v", "fp8-pertensor")
    assert len(manifest["layers"]["transformer"]) == 12
    assert all(layer["error"] > 0 for layer in manifest["layers"]["transformer"].values())
    assert "torch" in manifest["versions"] and manifest["fingerprint"] and "SmoothQuant" in manifest["recipe"]
    _, front, body = (out / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["base_model_relation"] == "quantized"
    assert "lightx2v_fp8-pertensor.json" in body and "| transformer | 12 |" in body
    assert json.loads((out / "transformed" / "llmc_manifest.json").read_text())["target"] == "transformed"


# ---- choosing ------------------------------------------------------------------------------------------------------


def test_every_scheme_is_found_by_its_own_grids_and_by_its_name() -> None:
    assert get_args(Runtime) == tuple(SCHEMES)
    for name, scheme in SCHEMES.items():
        spec = LayerSpec(weight=scheme.weight, act=scheme.act)
        assert find_scheme(spec, name) == name
        first = find_scheme(spec, None)
        assert first is not None and SCHEMES[first].weight == scheme.weight
        assert find_scheme(LightX2V(runtime=name).computed(spec), name) == name


def test_one_int8_and_one_fp8_export_serve_their_runtimes() -> None:
    assert [name for name in SCHEMES if name.startswith("int8-")] == served_by("int8-triton")
    assert len(served_by("int8-vllm")) == 9 and len(served_by("fp8-sgl")) == 7
    assert served_by("nvfp4") == ["nvfp4"] and served_by("fp8-pertensor") == ["fp8-pertensor"]


def grids(weight: dict[str, Any], act: dict[str, Any] | None) -> LayerSpec:
    return LayerSpec(weight=TensorSpec.model_validate(weight), act=act and TensorSpec.model_validate(act))


INT8 = grids({"format": "int8", "granularity": "per_channel"}, {"format": "int8", "granularity": "per_token"})
NVFP4 = grids({"format": "nvfp4"}, {"format": "nvfp4", "dynamic": False})


@pytest.mark.parametrize(
    ("own", "spec", "says"),
    [
        ({"runtime": "fp8-sgl"}, INT8, "`runtime: fp8-sgl` is for weight fp8_e4m3 per_channel"),
        ({"layout": "blocks"}, NVFP4, "it loads nvfp4 from `layout: single` only"),
        ({"runtime": "int8-npu", "layout": "blocks"}, INT8, "it loads int8-npu from `layout: single` only"),
        ({}, grids({"format": "nvfp4"}, {"format": "nvfp4"}), "act nvfp4 per_group 16 static"),
        ({}, grids({"format": "mxfp6"}, {"format": "mxfp6"}), "it reads weight mxfp6 per_group 32 with act mxfp8"),
        ({"runtime": "fp8-intel-xpu"}, INT8, "with act float"),
    ],
)
def test_a_scheme_says_what_it_would_take_instead(own: dict[str, Any], spec: LayerSpec, says: str) -> None:
    (problem,) = LightX2V(**own).problems(spec, frozenset())
    assert says in problem


def test_two_schemes_in_one_folder_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shipped_config(folder, "smoothquant_w_a", tmp_path)
    rule = "{match: '*.ffn.net.2', weight: {bit: e4m3}, act: {bit: e4m3}}"
    assert main(["check", str(path), "--set", f"quant.video_gen.rules=[{rule}]"]) == 2
    assert "one scheme for all layers; found fp8-vllm here and int8-vllm above" in capsys.readouterr().err


def test_explain_says_which_sizes_the_kernels_need_and_refuses_others(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shipped_config(folder, "smoothquant_w_a", tmp_path)
    assert main(["check", str(path), "--explain"]) == 0
    assert "lightx2v: sizes are multiples of 16 inputs and 16 outputs" in capsys.readouterr().out
    save_wan_i2v(tmp_path / "model")
    config = tmp_path / "model" / "transformer" / "config.json"  # a skeleton is made of this file alone
    config.write_text(json.dumps({**json.loads(config.read_text()), "ffn_dim": 72}))
    assert main(["check", str(path), "--explain", "--set", f"model.path={tmp_path / 'model'}"]) == 2
    assert "blocks.0.ffn.net.0.proj has 64 inputs and 72 outputs" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["check", "run --config"])
def test_layers_that_a_kernel_has_no_tiles_for_are_named_before_calibration(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    save_wan_i2v(tmp_path / "model")  # of width 64
    path = shipped_config(folder, "mxfp4", tmp_path)
    assert main([*command.split(), str(path), "--set", f"model.path={tmp_path / 'model'}"]) == 2
    said = capsys.readouterr().err
    assert "blocks.0.attn1.to_q has 64 inputs and 64 outputs, which must be multiples of 128 and 128" in said
    assert "and 21 more" in said and "choose another grid" in said
    assert not (tmp_path / "export").exists()


def test_weights_that_a_loader_would_mix_in_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = shipped_config(folder, "rtn_w_a", tmp_path, overwrite=True)
    (tmp_path / "export").mkdir()
    (tmp_path / "export" / "strange.safetensors").write_bytes(b"")
    assert main(["check", str(path)]) == 2
    assert "strange.safetensors: LightX2V merges every safetensors file" in capsys.readouterr().err


def test_what_lightx2v_refuses_is_written_with_a_warning(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert (
        main(
            [
                "run",
                "--config",
                str(shipped_config(folder, "int4_marlin", tmp_path)),
                "--set",
                "quant.video_gen.method=RTN",
            ]
        )
        == 0
    )
    assert "refuses the scheme at start" in caplog.text
    assert "refuses the scheme at start" in (tmp_path / "export" / "README.md").read_text()


# ---- the arithmetic of kernels -------------------------------------------------------------------------------------


def act_of(runtime: Runtime, spec: LayerSpec = INT8) -> TensorSpec:
    act = LightX2V(runtime=runtime).computed(spec).act
    assert act is not None
    return act


def test_int8_triton_truncates() -> None:
    x = torch.tensor([[-127.0, -1.9, -0.5, 0.9, 1.5, 2.0]])
    assert fake_quantize(x, act_of("int8-triton")).tolist() == [[-127, -1, 0, 0, 1, 2]]
    assert fake_quantize(x, act_of("int8-vllm")).tolist() == [[-127, -2, 0, 1, 2, 2]]


FP8 = grids({"format": "fp8_e4m3", "granularity": "per_channel"}, {"format": "fp8_e4m3", "granularity": "per_token"})


def test_torchao_computes_in_bf16_up_to_the_codes() -> None:
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0)).bfloat16()
    absmax = x.abs().amax(1, keepdim=True)
    scale = absmax / 127
    wanted = (x * (1 / scale)).round().clamp(-127, 127).float() * scale.float()
    assert torch.equal(fake_quantize(x, act_of("int8-torchao")), wanted)
    scale = absmax / 448
    wanted = (x / scale).clamp(-448, 448).to(E4M3).float() * scale.float()
    assert torch.equal(fake_quantize(x, act_of("fp8-torchao", FP8)), wanted)


def test_fp8_triton_multiplies_by_a_narrower_scale_than_it_rounds_with() -> None:
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    scale = x.abs().amax(1, keepdim=True) / 448
    wanted = (x / scale).clamp(-448, 448).to(E4M3).float() * scale.bfloat16().float()
    assert torch.equal(fake_quantize(x, act_of("fp8-triton", FP8)), wanted)
    assert torch.equal(quantize(x, act_of("fp8-triton", FP8)).dequantize(), wanted)


def test_the_runtime_is_what_the_fake_quant_model_computes_like(
    folder: Path, tmp_path: Path, judged: list[Network]
) -> None:
    assert main(["run", "--config", str(shipped_config(folder, "rtn_w_a", tmp_path, runtime="int8-triton"))]) == 0
    assert {layer.spec.act and layer.spec.act.rounding for layer in judged[0].layers.values()} == {"toward_zero"}
    assert (tmp_path / "export" / "lightx2v_int8-triton.json").is_file()


def test_targets_that_compute_differently_are_not_judged_in_one_run() -> None:
    with pytest.raises(UnsupportedSpec, match="export one at a time"):
        as_computed(INT8, [LightX2V(runtime="int8-triton"), LightX2V()])
    assert as_computed(INT8, [LightX2V(), Transformed()]) == LightX2V().computed(INT8)


# ---- two experts ---------------------------------------------------------------------------------------------------


def test_two_experts_have_a_folder_each_and_one_runtime_configuration(
    folder: Path, tmp_path: Path, judged: list[Network]
) -> None:
    """A model of two networks, as exporters are handed it: here one network in both roles."""
    assert main(["run", "--config", str(shipped_config(folder, "smoothquant_w_a", tmp_path))]) == 0
    names = ("transformer", "transformer_2")
    sampling = {"steps": 4, "num_frames": 5, "height": 32, "width": 32, "guidance_scale": 4.0, "guidance_scale_2": 3.0,
                "boundary": 0.9, "shift": 5.0, "seed": 1}  # fmt: skip
    parts = [
        FinishedPart(name, judged[0].part.module, judged[0].layers, WanI2V.renames, folder / "model",
                     {"producer": "test", "recipe": "test", "fingerprint": "0"}, sampling,
                     others=tuple(set(names) - {name}))
        for name in names
    ]  # fmt: skip
    out, exporter = tmp_path / "experts", LightX2V(native_names=True)
    for part in parts:
        exporter.write(part, out)
    exporter.finish(parts, out)
    runtime = json.loads((out / "lightx2v_int8-vllm.json").read_text())
    assert "dit_quantized_ckpt" not in runtime
    for key, name in (
        ("high_noise_quantized_ckpt", "high_noise_model"),
        ("low_noise_quantized_ckpt", "low_noise_model"),
    ):
        assert runtime[key] == str((out / name).resolve())
        assert sorted(file.name for file in (out / name).iterdir()) == [
            "config.json", "diffusion_pytorch_model.safetensors",
        ]  # fmt: skip
    assert runtime["quant_method"] == "advanced_ptq"  # a config.json of these folders is not read
    assert (runtime["sample_guide_scale"], runtime["boundary"]) == ([4.0, 3.0], 0.9)
    assert json.loads((out / "llmc_manifest.json").read_text())["layers"].keys() == set(names)


@pytest.mark.parametrize(
    ("shift", "boundary", "index"),
    # shifted by 5 the steps are 1000, 937.5, 833.3, 625; unshifted they stay
    [(5.0, 0.9, 2), (5.0, 0.875, 2), (5.0, 0.8, 3), (1.0, 0.9, 1), (1.0, 0.75, 2)],
)
def test_a_distilled_model_is_started_with_its_steps_and_where_the_experts_take_turns(
    shift: float, boundary: float, index: int
) -> None:
    sampling = {"steps": 4, "num_frames": 5, "height": 32, "width": 32, "guidance_scale": 1.0, "boundary": boundary,
                "shift": shift, "seed": 1, "denoising_step_list": (1000, 750, 500, 250)}  # fmt: skip
    module, made_by = torch.nn.Module(), {"producer": "test", "recipe": "test", "fingerprint": "0"}
    parts = [FinishedPart(name, module, {}, {}, Path(), made_by, sampling) for name in ("transformer", "transformer_2")]
    keys = sampling_keys(parts)
    assert (keys["denoising_step_list"], keys["boundary_step_index"]) == ([1000, 750, 500, 250], index)
    assert (keys["infer_steps"], keys["enable_cfg"]) == (4, False)
    alone = sampling_keys(parts[:1])
    assert alone["denoising_step_list"] == [1000, 750, 500, 250] and "boundary_step_index" not in alone


def test_the_experts_take_turns_where_they_do_in_the_judged_videos(tmp_path: Path) -> None:
    """Also where a step lies at the boundary itself, as 750 of 1000 does at shift 3: it is 900 then."""
    TINY["Wan2T2V"][0](tmp_path)
    adapter = Wan2T2V()
    pipeline = adapter.load(tmp_path, "float32", "cpu")
    judged = Sampling(height=32, width=32, num_frames=5, steps=4, guidance_scale=1.0, seed=1)
    for boundary, shift, step in itertools.product((0.9, 0.875, 0.5), (1.0, 3.0, 5.0, 7.5, 8.0), (900, 875, 750, 500)):
        pipeline.register_to_config(boundary_ratio=boundary)
        steps = (1000, step, 250, 100)
        how = judged.model_copy(update={"shift": shift, "denoising_step_list": steps})
        assert steps_above(boundary, steps, shift) == adapter.call_counts(pipeline, how)["transformer"]
    assert steps_above(0.9, (1000, 750), 3.0) == 2


def test_a_distilled_schedule_that_leaves_no_step_to_the_second_expert_is_refused() -> None:
    """LightX2V looks up the noise of the step that the first index of the second expert would be."""
    sampling = {"denoising_step_list": (1000, 750), "boundary": 0.9, "shift": 5.0}
    assert "all of the steps 1000, 750 are above the boundary 0.9" in str(LightX2V().schedule_problem(sampling))
    for other in ({"denoising_step_list": (1000, 250)}, {"boundary": None}, {"denoising_step_list": None}):
        assert LightX2V().schedule_problem({**sampling, **other}) is None
    assert steps_above(0.9, (500, 250), 1.0) == 0  # the other end is no problem there


def test_such_a_schedule_is_refused_before_anything_is_calibrated(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quant = {"video_gen": {"method": "RTN", "weight": {"bit": 8}, "act": {"bit": 8}}}
    config = small_config(tmp_path, 1, "Wan2T2V", quant=quant, eval=None)
    options = ["--set", "calib.denoising_step_list=[1000, 990]", "--set", "calib.sample_shift=5.0"]
    assert main(["run", "--config", str(config), *options]) == 2
    assert "there is none; give denoising_step_list a step below" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "export").exists()
