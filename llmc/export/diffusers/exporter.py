"""diffusers: a whole pipeline folder that its own `from_pretrained` loads, weights as torchao keeps them in files.

A quantized weight is a tensor subclass there, in a file the plain tensors of its attributes; the file's metadata says
which class and with what else. Written without torchao. Its int8 tensor can multiply an input before it is quantized,
so that every Scale can be kept; its fp8 tensor cannot.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from llmc.convert.writer import write_checkpoint
from llmc.export.base import Exporter
from llmc.export.folding import absorbed_tensors, bias_tensor, left_multiplier, transformed_tensors
from llmc.export.part import FinishedPart, LazyTensor, kept, network_config
from llmc.export.pipeline_folder import link_pipeline
from llmc.layers.target import EVERY_CARRIER, Carrier
from llmc.numerics.spec import LayerSpec, ScaleDtype, TensorSpec

if TYPE_CHECKING:
    from llmc.layers.linear import QuantLinear

SCHEMES = {  # format of the weights, whether activations are quantized too -> the configuration that makes such tensors
    ("int8", False): "Int8WeightOnlyConfig",
    ("int8", True): "Int8DynamicActivationInt8WeightConfig",
    ("fp8_e4m3", False): "Float8WeightOnlyConfig",
    ("fp8_e4m3", True): "Float8DynamicActivationFloat8WeightConfig",
}
VERSION = 2  # of all four
# how torchao measures activations at run time: the scale in the model's type; its int8 grid has 255 codes, -128 too
INT8_ACT = {"scale_dtype": "of_input", "divisor": "half_of_all_codes", "quotient": "times_reciprocal"}
FP8_ACT = {"scale_dtype": "of_input"}

Tagged = dict[str, Any]  # an object as torchao writes it in JSON


def tagged(kind: str, /, *value: str, **fields: Any) -> Tagged:
    """An object of that class: a value by name, or one with fields."""
    return {"_type": kind, "_data": value[0] if value else fields}


def dtype_tag(dtype: torch.dtype) -> Tagged:
    """A torch type."""
    return tagged("torch.dtype", str(dtype).removeprefix("torch."))


PER_ROW = tagged("PerRow", dim=-1)
SYMMETRIC = tagged("MappingType", "SYMMETRIC")
AUTO = tagged("KernelPreference", "AUTO")
FAST_MATMUL = tagged("Float8MMConfig", emulate=False, use_fast_accum=True, pad_inner_dim=False)


class Diffusers(Exporter):
    """A pipeline folder that stock diffusers loads with torchao and accelerate."""

    name: Literal["diffusers"] = "diffusers"
    subfolder: ClassVar[str] = "diffusers"
    accepts: ClassVar[frozenset[str]] = frozenset({"scale"})
    scale_dtype: ClassVar[ScaleDtype] = "bfloat16"  # with float activations the sums are multiplied in their type

    def problems(self, spec: LayerSpec, left: frozenset[str]) -> list[str]:
        problems = super().problems(spec, left)
        if spec != LayerSpec() and self.scheme_of(spec) is None:
            problems.append(
                "torchao has int8 or fp8_e4m3 weights, symmetric, per_channel, with act float, or in the format of the "
                f"weight, symmetric, per_token, dynamic; found {spec}"
            )
        return problems

    def scheme_of(self, spec: LayerSpec) -> str | None:
        weight, act = spec.weight, spec.act
        if weight is None or (weight.granularity, weight.symmetric) != ("per_channel", True):
            return None
        if act is not None and not _is_per_token(act, weight.format.name):
            return None
        return SCHEMES.get((weight.format.name, act is not None))

    def source_problem(self, folder: Path, released: bool) -> str | None:
        if (folder / "model_index.json").is_file():
            return None
        return (
            f"it writes a whole pipeline of diffusers, and {folder} is none: it has no model_index.json; leave it out"
        )

    def computed(self, spec: LayerSpec) -> LayerSpec:
        stored = super().computed(spec)
        if stored.act is None:
            return stored
        arithmetic = INT8_ACT if stored.act.format.integer else FP8_ACT
        return LayerSpec(weight=stored.weight, act=stored.act.model_copy(update=arithmetic))

    def carries(self, spec: LayerSpec) -> frozenset[Carrier]:
        integer = spec.weight is not None and spec.weight.format.integer
        return EVERY_CARRIER if integer else super().carries(spec)

    def write(self, part: FinishedPart, folder: Path) -> Path:
        link_pipeline(part.source, folder, without={part.name, *part.others})
        plain, flat = absorbed_tensors(part), dict[str, LazyTensor]()
        classes = {}
        for name, layer in part.layers.items():
            if layer.state.rounded is None:
                plain |= transformed_tensors(name, layer)
                continue
            own = weight_tensors(layer, left_multiplier(layer, plain))
            classes[f"{name}.weight"] = tensor_class(layer, list(own))
            flat |= {f"{name}._weight_{attribute}": tensor for attribute, tensor in own.items()}
            plain |= bias_tensor(name, layer)
        metadata = tensor_metadata({key: {"_type": "Tensor"} for key in plain} | classes)
        config = network_config(part) | self._quantization_config(part)
        write_checkpoint(folder / part.name, plain | flat, "sharded", {**part.provenance, **metadata}, config=config)
        return folder

    def about(self, parts: Sequence[FinishedPart]) -> dict[str, str]:
        scheme = self._scheme(parts)
        return {} if scheme is None else {"scheme": scheme}

    def usage(self, parts: Sequence[FinishedPart]) -> str:
        return (
            "`diffusers.DiffusionPipeline.from_pretrained` loads this folder, with torchao (0.18 or later) and "
            "accelerate installed. Activations are quantized as the grids say.\n"
        )

    def _scheme(self, parts: Sequence[FinishedPart]) -> str | None:
        """The configuration that all quantized layers share; None if none is quantized."""
        found = (self.scheme_of(layer.spec) for part in parts for layer in part.layers.values())
        return next((scheme for scheme in found if scheme is not None), None)

    def _quantization_config(self, part: FinishedPart) -> dict[str, Any]:
        scheme = self._scheme([part])
        if scheme is None:
            return {}
        default = {**tagged(scheme, granularity=PER_ROW), "_version": VERSION}
        return {
            "quantization_config": {
                "quant_method": "torchao",
                "quant_type": {"default": default},
                "modules_to_not_convert": float_linears(part),
            }
        }


def weight_tensors(layer: QuantLinear, multiplier: torch.Tensor | None) -> dict[str, LazyTensor]:
    """The tensors of a quantized weight, by the attributes of torchao's class."""
    rounded = layer.state.rounded
    assert rounded is not None
    dtype: torch.dtype = getattr(torch, rounded.spec.format.dtype)
    tensors = {
        "qdata": LazyTensor(dtype, rounded.shape, lambda: rounded.stored().cpu()),
        "scale": kept(rounded.scale),
    }
    # in the model's type, in which the fake-quant model multiplies too
    return tensors if multiplier is None else tensors | {"act_pre_scale": kept(multiplier.to(layer.dtype))}


def tensor_class(layer: QuantLinear, attributes: list[str]) -> Tagged:
    """torchao's class of a quantized weight, and what it takes besides tensors."""
    dynamic = layer.spec.act is not None
    common = {"block_size": [1, layer.in_features], "dtype": dtype_tag(layer.dtype)}
    assert layer.spec.weight is not None
    if layer.spec.weight.format.integer:
        act = tagged("QuantizeTensorToInt8Kwargs", granularity=PER_ROW, mapping_type=SYMMETRIC, reduce_range=False)
        found = tagged("Int8Tensor", act_quant_kwargs=act if dynamic else None, reduce_range=False, **common)
    else:
        multiply = FAST_MATMUL if dynamic else None
        kernel = {"mm_config": multiply, "kernel_preference": AUTO}
        act = tagged("QuantizeTensorToFloat8Kwargs", float8_dtype=dtype_tag(torch.float8_e4m3fn), granularity=PER_ROW,
                     hp_value_lb=None, hp_value_ub=None, **kernel)  # fmt: skip
        found = tagged("Float8Tensor", act_quant_kwargs=act if dynamic else None, **kernel, **common)
    return found | {"_tensor_data_names": attributes}


def tensor_metadata(kinds: Mapping[str, Tagged]) -> dict[str, str]:
    """The metadata of the file: the names of all tensors of the network, and the class of each."""
    return {"tensor_names": json.dumps(list(kinds))} | {name: json.dumps(kind) for name, kind in kinds.items()}


def float_linears(part: FinishedPart) -> list[str]:
    """Linears that diffusers must leave alone, but for names that it would also find within a quantized layer's."""
    quantized = [f"{name}.weight" for name, layer in part.layers.items() if layer.state.rounded is not None]
    linears = [name for name, module in part.module.named_modules() if isinstance(module, torch.nn.Linear)]
    linears += [name for name, layer in part.layers.items() if layer.state.rounded is None]
    return [name for name in linears if not any(f"{name}." in other for other in quantized)]


def _is_per_token(act: TensorSpec, format_name: str) -> bool:
    found = (act.format.name, act.granularity, act.symmetric, act.dynamic)
    return found == (format_name, "per_token", True, True)
