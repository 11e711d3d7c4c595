"""ComfyUI's file of families whose original layout has several of our layers in one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from llmc.__main__ import main
from llmc.algorithms.rtn import RTN
from llmc.convert.names import Known, Names
from llmc.engine.network import Network
from llmc.export.comfyui.exporter import ComfyUI
from llmc.export.part import FinishedPart
from llmc.numerics.spec import LayerSpec
from llmc.renames import fused_layers
from tests.end_to_end.test_families import family_config
from tests.export.comfyui.test_exporter import FP8, INT8, dequantized
from tests.export.tiny import Call, finished_family, judged_output

# a few of them written down, so that no table is both the writer's and the reader's
FUSED = {
    "Flux": {
        "double_blocks.1.txt_attn.qkv": [f"transformer_blocks.1.attn.add_{n}_proj" for n in "qkv"],
        "single_blocks.0.linear1": [f"single_transformer_blocks.0.{n}" for n in ("attn.to_q", "attn.to_k", "attn.to_v",
                                                                                 "proj_mlp")],
        "single_blocks.1.linear2": ["single_transformer_blocks.1.proj_out"],
    },
    "SD3": {
        "joint_blocks.0.x_block.attn2.qkv": [f"transformer_blocks.0.attn2.to_{n}" for n in "qkv"],
        "joint_blocks.2.context_block.attn.qkv": [f"transformer_blocks.2.attn.add_{n}_proj" for n in "qkv"],
        "joint_blocks.1.context_block.attn.proj": ["transformer_blocks.1.attn.to_add_out"],
    },
    "HunyuanVideo": {
        "double_blocks.0.img_attn_qkv": [f"transformer_blocks.0.attn.to_{n}" for n in "qkv"],
        "single_blocks.1.linear1": [f"single_transformer_blocks.1.{n}" for n in ("attn.to_q", "attn.to_k", "attn.to_v",
                                                                                 "proj_mlp")],
        "double_blocks.1.txt_mlp.fc2": ["transformer_blocks.1.ff_context.net.2"],
    },
}  # fmt: skip
SPECS = {"int8": INT8, "fp8": FP8}


@dataclass(frozen=True)
class Written:
    """A family's network after calibration, one call of it, and its file."""

    part: FinishedPart
    network: Network
    call: Call
    tensors: dict[str, torch.Tensor]


@pytest.fixture(scope="module", params=[(family, form) for family in FUSED for form in SPECS], ids="-".join)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Written:
    family, form = request.param
    folder = tmp_path_factory.mktemp(family)
    part, network, call = finished_family(folder, family, ComfyUI(), SPECS[form])
    ComfyUI().write(part, folder / "out")
    (file,) = (folder / "out").iterdir()
    return Written(part, network, call, load_file(file))


@torch.no_grad()
def test_a_fused_layer_is_the_judged_ones_below_each_other(written: Written, request: pytest.FixtureRequest) -> None:
    family, form = request.node.callspec.params["written"]
    for name, sources in FUSED[family].items():
        layers = [written.network.layers[source] for source in sources]
        judged = [layer.state.rounded for layer in layers]
        scale, codes = written.tensors[f"{name}.weight_scale"], written.tensors[f"{name}.weight"]
        assert scale.shape == ((len(codes), 1) if form == "int8" else ())
        assert torch.equal(codes.float() * scale, torch.cat([rounded.dequantize() for rounded in judged if rounded]))
        biases = [layer.float_bias() for layer in layers]
        assert torch.equal(written.tensors[f"{name}.bias"], torch.cat([bias for bias in biases if bias is not None]))
        if form == "fp8":
            assert {float(layer.state.static[0]) for layer in layers if layer.state.static} == {
                float(written.tensors[f"{name}.input_scale"])
            }
            # one scale for all, and no larger than what one of them needs
            assert max(float(rounded.stored().float().abs().max()) for rounded in judged if rounded) == 448
    described = {name.removesuffix(".comfy_quant") for name in written.tensors if name.endswith(".comfy_quant")}
    together = fused_layers(written.network.original, written.network.layers)
    assert described >= together.keys() and described >= FUSED[family].keys()
    assert len(described) == len(written.network.layers) - sum(len(names) - 1 for names in together.values())


@torch.no_grad()
def test_the_file_as_a_float_network_computes_what_was_judged(written: Written) -> None:
    """Smoothing is in the rows of modulations; scale and shift have changed places; nothing is missing or left over."""
    assert any(layer.state.transforms for layer in written.network.layers.values())
    weights = {name: tensor for name, tensor in written.tensors.items()
               if not name.endswith((".comfy_quant", ".weight_scale", ".input_scale"))}  # fmt: skip
    weights |= {
        name: weight for name, weight in dequantized(written.tensors, "weight_scale").items() if name in weights
    }
    ours = Names(written.network.original).to_ours({name: Known(tensor) for name, tensor in weights.items()})
    stock = type(written.part.module).from_config(written.part.module.config)  # type: ignore[attr-defined]
    stock.load_state_dict({name: tensor.make() for name, tensor in ours.items()}, strict=True)
    args, kwargs = written.call
    found = stock.eval()(*args, **kwargs)[0]
    specs = {layer: layer.spec for layer in written.network.layers.values()}
    for layer in specs:
        layer.spec = LayerSpec(weight=layer.spec.weight)
    judged = judged_output(written.network, written.call)
    for layer, spec in specs.items():
        layer.spec = spec
    torch.testing.assert_close(found, judged, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "quant, says",
    [
        ({"rules": [{"match": "*.attn.to_q", "skip": True}]}, "are one layer in the original network"),
        ({"method": {"name": "GPTQ"}, "weight": {"bit": "e4m3", "granularity": "per_tensor"}, "act": None},
         "GPTQ chooses one for each of them by itself"),
    ],
    ids=["one of three is float", "scales of their own"],
)  # fmt: skip
def test_layers_that_could_not_be_stored_as_one_are_refused_before_anything_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], quant: dict[str, Any], says: str
) -> None:
    config = family_config(tmp_path, "Flux", **quant)
    options = ["--set", "save.save_fake=False", "--set", "save.save_comfyui=True"]
    assert main(["check", str(config), "--explain", *options]) == 2
    assert says in " ".join(capsys.readouterr().err.split())
    assert main(["run", "--config", str(config), *options]) == 2
    assert "transformer_blocks.0.attn.to_q" in capsys.readouterr().err and not (tmp_path / "export").exists()


def test_plain_rounding_as_a_method_shares_scales_and_ranges_of_its_own_do_not() -> None:
    assert not RTN().own_scales and RTN(range="mse").own_scales
