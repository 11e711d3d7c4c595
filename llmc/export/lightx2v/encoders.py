"""LightX2V's encoders: UMT5-XXL and the image half of CLIP, int8 or fp8, in the files that it looks for by itself.

Its modules take a state dict with exactly their own names. Scales stay float32 there; all else has one type, which is
written here already. Below `<model_path>/int8` and `/fp8` it finds the .pth files by name; safetensors need the key.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch

from llmc.convert.writer import write_checkpoint
from llmc.errors import ExportError
from llmc.export.folding import folded_tensors
from llmc.export.part import FinishedPart, LazyTensor, kept
from llmc.log import log

if TYPE_CHECKING:
    from llmc.layers.linear import QuantLinear

EncoderFile: TypeAlias = Literal["pth", "safetensors"]
SUFFIXES: Mapping[EncoderFile, Literal[".pth", ".safetensors"]] = {"pth": ".pth", "safetensors": ".safetensors"}
PRECISIONS = {"int8": "int8", "fp8_e4m3": "fp8"}
ENCODER_SCHEMES = tuple(f"{precision}-vllm" for precision in PRECISIONS.values())


@dataclass(frozen=True)
class Target:
    """One encoder as LightX2V has it; `built` is what its class is built with, whatever a file holds."""

    key: str
    stem: str
    dtype: str
    built: Mapping[str, object]


TARGETS: Mapping[str, Target] = {
    "UMT5EncoderModel": Target(
        "t5", "models_t5_umt5-xxl-enc", "bfloat16",
        {"d_model": 4096, "d_ff": 10240, "num_heads": 64, "num_layers": 24, "vocab_size": 256384},
    ),
    "CLIPVisionModel": Target(
        "clip", "models_clip_open-clip-xlm-roberta-large-vit-huge-14", "float16",
        {"hidden_size": 1280, "num_attention_heads": 16, "num_hidden_layers": 32, "image_size": 224, "patch_size": 14,
         "hidden_act": "gelu"},
    ),
}  # fmt: skip


def write_encoder(part: FinishedPart, folder: Path, file: EncoderFile) -> Path:
    """Write one encoder below `folder`; returns the file."""
    from llmc.convert.encoders import to_release

    target = TARGETS[type(part.module).__name__]
    config: Any = part.module.config
    other = {key: getattr(config, key) for key, built in target.built.items() if getattr(config, key) != built}
    if other:
        built = {key: target.built[key] for key in other}
        log.warning("LightX2V's %s is built with %s; a file with %s does not load there", target.key, built, other)
    dtype: torch.dtype = getattr(torch, target.dtype)
    tensors = {name: _cast(name, tensor, dtype) for name, tensor in folded_tensors(part).items()}
    for name, layer in part.layers.items():
        tensors |= _linear(name, layer, dtype)
    named = to_release(type(part.module).__name__, tensors)
    path = encoder_path(part, folder, file)
    write_checkpoint(path.parent, named, "single", part.provenance, stem=path.stem, suffix=SUFFIXES[file])
    return path


def encoder_path(part: FinishedPart, folder: Path, file: EncoderFile) -> Path:
    """Where an encoder is written: apart from the network's files, since LightX2V merges all of those."""
    precision = _precision(part)
    return folder / precision / f"{TARGETS[type(part.module).__name__].stem}-{precision}{SUFFIXES[file]}"


def encoder_keys(parts: Sequence[FinishedPart], folder: Path, file: EncoderFile) -> dict[str, object]:
    """What LightX2V's runtime JSON says of the encoders among `parts`."""
    keys: dict[str, object] = {}
    for part in parts:
        if not part.is_denoiser:
            key = TARGETS[type(part.module).__name__].key
            keys |= {
                f"{key}_quantized": True,
                f"{key}_quant_scheme": f"{_precision(part)}-vllm",
                f"{key}_quantized_ckpt": str(encoder_path(part, folder, file).resolve()),
            }
    return keys


def _precision(part: FinishedPart) -> str:
    formats = {layer.spec.weight.format.name for layer in part.layers.values() if layer.spec.weight is not None}
    if len(formats) != 1:
        found = ", ".join(sorted(formats))
        raise ExportError(f"{part.name} has layers in {found}; LightX2V reads one format; give all layers one grid")
    return PRECISIONS[formats.pop()]


def _linear(name: str, layer: QuantLinear, dtype: torch.dtype) -> dict[str, LazyTensor]:
    """Codes, a float32 scale for each output channel, and the bias."""
    rounded, spec = layer.state.rounded, layer.spec.weight
    assert rounded is not None and spec is not None
    tensors = {
        f"{name}.weight": LazyTensor(getattr(torch, spec.format.dtype), rounded.shape, lambda: rounded.stored().cpu()),
        f"{name}.weight_scale": kept(rounded.scale),
    }
    bias = layer.final_bias()
    return tensors if bias is None else tensors | {f"{name}.bias": _cast(f"{name}.bias", kept(bias), dtype)}


def _cast(name: str, tensor: LazyTensor, dtype: torch.dtype) -> LazyTensor:
    def make() -> torch.Tensor:
        cast = tensor.make().to(dtype)
        if not cast.isfinite().all():
            raise ExportError(f"{name} does not fit into {dtype}, the type that LightX2V runs this encoder in")
        return cast

    return LazyTensor(dtype, tensor.shape, make)
