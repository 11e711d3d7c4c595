"""LightX2V: int8 or fp8 weights with one scale per output channel; activations are quantized per token at run time.

The names are diffusers' own, as LLMC writes them and `scripts/converter.py -d backward` reads them, or LightX2V's. With
smoothing it multiplies `affine_norm1/3` onto (1 + scale) and shift, if the config says `quant_method: advanced_ptq`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from pydantic import Field

from llmc.convert.config_keys import to_original
from llmc.convert.rename import Renamer
from llmc.convert.writer import write_checkpoint, write_json
from llmc.export.base import Carrier, Exporter, FinishedPart, LazyTensor, kept, network_config
from llmc.export.folding import folded_tensors, is_smoothed_at_run_time
from llmc.numerics.spec import LayerSpec, ScaleDtype

if TYPE_CHECKING:
    from llmc.layers.linear import QuantLinear

SCHEMES = {"int8": "int8-vllm", "fp8_e4m3": "fp8-vllm"}


class LightX2V(Exporter):
    """LightX2V's int8 and fp8 checkpoints, in diffusers' names or its own."""

    name: Literal["lightx2v"] = "lightx2v"
    native_names: bool = Field(False, description="write LightX2V's own names, with its config.json and a runtime JSON")
    layout: Literal["single", "blocks"] = Field("single", description="one file, or one per block for lazy loading")
    switch: ClassVar[str] = "save_lightx2v"
    accepts: ClassVar[frozenset[str]] = frozenset({"scale"})
    scale_dtype: ClassVar[ScaleDtype] = "bfloat16"  # its loader casts every scale to bf16, without a word

    def problems(self, spec: LayerSpec, left: frozenset[str]) -> list[str]:
        problems = super().problems(spec, left)
        weight, act = spec.weight, spec.act
        if weight is None or act is None:
            return [
                *problems,
                f"its scheme is one for all linears of all blocks, weight and act both quantized; found {spec}",
            ]
        if weight.format.name not in SCHEMES or weight.granularity != "per_channel" or not weight.symmetric:
            problems.append(f"it stores int8 or fp8_e4m3 weights, symmetric, per_channel; found {weight}")
        if (
            act.format.name != weight.format.name
            or act.granularity != "per_token"
            or not (act.symmetric and act.dynamic)
        ):
            problems.append(f"it quantizes act in the format of the weight, symmetric, per_token, dynamic; found {act}")
        return problems

    def carries(self, spec: LayerSpec) -> frozenset[Carrier]:
        return super().carries(spec) | {"modulated norm"}

    def write(self, part: FinishedPart, folder: Path) -> Path:
        tensors = folded_tensors(part)
        for name, layer in part.layers.items():
            # with lazy_load a kernel is handed the bias as it lies in the file, and takes only the type of its output
            tensors |= quantized_tensors(name, layer, torch.bfloat16 if self.layout == "blocks" else layer.weight.dtype)
        config = network_config(part)
        smoothed = is_smoothed_at_run_time(tensors)
        if self.native_names:
            names = Renamer(part.renames["lightx2v"]).forward_all(tensors)
            tensors = {names[name]: tensor for name, tensor in tensors.items()}
            config = to_original(config)
        if smoothed:
            config["quant_method"] = "advanced_ptq"
        write_checkpoint(folder, tensors, self.layout, part.provenance, config=config)
        if self.native_names:
            scheme = _scheme(part)
            write_json(folder / f"lightx2v_{scheme}.json", _runtime_config(part, folder, scheme, smoothed))
        return folder


def quantized_tensors(name: str, layer: QuantLinear, bias_dtype: torch.dtype) -> dict[str, LazyTensor]:
    """What is read of one linear: codes, one fp32 scale (exact in bf16) per output channel, and the bias."""
    rounded = layer.state.rounded
    assert rounded is not None and layer.spec.weight is not None
    dtype: torch.dtype = getattr(torch, layer.spec.weight.format.dtype)
    tensors = {
        f"{name}.weight": LazyTensor(dtype, rounded.shape, lambda: rounded.stored().cpu()),
        f"{name}.weight_scale": kept(rounded.scale),
    }
    bias = layer.float_bias()
    return tensors if bias is None else tensors | {f"{name}.bias": kept(bias.to(bias_dtype))}


def _scheme(part: FinishedPart) -> str:
    spec = next(iter(part.layers.values())).spec.weight
    assert spec is not None
    return SCHEMES[spec.format.name]


def _runtime_config(part: FinishedPart, folder: Path, scheme: str, smoothed: bool) -> dict[str, Any]:
    """What `lightx2v` is started with: the same sampling that the quantized model was judged with."""
    sampling = part.sampling
    config = {
        "infer_steps": sampling["steps"],
        "target_video_length": sampling["num_frames"],
        "target_height": sampling["height"],
        "target_width": sampling["width"],
        "sample_guide_scale": sampling["guidance_scale"],
        "sample_shift": sampling["shift"],
        "enable_cfg": sampling["guidance_scale"] > 1,
        "seed": sampling["seed"],
        # what runs everywhere; flash_attn3, sage_attn2 and others are faster where they are installed
        "self_attn_1_type": "torch_sdpa",
        "cross_attn_1_type": "torch_sdpa",
        "cross_attn_2_type": "torch_sdpa",
        "dit_quantized": True,
        "dit_quant_scheme": scheme,
        "dit_quantized_ckpt": str(folder.resolve()),
    }
    return config | {"quant_method": "advanced_ptq"} if smoothed else config
