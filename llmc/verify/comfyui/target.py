"""ComfyUI: a layer without its description is read as float, and acts without a scale are rounded at a scale of 1."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import torch

from llmc.verify.base import Target
from llmc.verify.file_rules import manifest_agrees
from llmc.verify.files import TensorFile, open_tensor_file, parse_keys
from llmc.verify.layered import Layered, sizes_from_shapes
from llmc.verify.layered_rules import LayeredRules, layered_verdicts
from llmc.verify.manifest import read_manifest
from llmc.verify.network import Export, folder_of
from llmc.verify.sources import Sources
from llmc.verify.verdict import Checked, Finding, Verdict, verdict

NEW = {"weight": "weight", "weight_scale": "weight_scale", "input_scale": "input_scale"}
OLD = {"weight": "weight", "weight_scale": "scale_weight", "input_scale": "scale_input"}
MARKER = "scaled_fp8"  # makes a file one of the older form
FORMATS = {"int8_tensorwise": torch.int8, "float8_e4m3fn": torch.float8_e4m3fn}


def layers_describe_themselves(network: Layered) -> Finding:
    """Every quantized layer says what it is, and its scales are those that its kernels read."""
    old = MARKER in network.entries
    found = _old_problems(network) if old else _new_problems(network)
    return Checked([*found, *_wide_scales(network)], MARKER if old else "comfy_quant")


def _old_problems(network: Layered) -> Iterator[str]:
    alone = network.entries[MARKER].shape == (2,)
    for linear in network.linears():
        scale = network.leaf(linear, "input_scale")
        if network.quantized(linear) and (scale is None) != alone:
            says = "weights alone are quantized" if alone else "activations are quantized too"
            yield f"{linear.native} has {'no' if scale is None else 'a'} scale_input, and the file says that {says}"


def _new_problems(network: Layered) -> Iterator[str]:
    for linear in network.linears():
        entry, codes = network.find(linear, "comfy_quant"), network.leaf(linear, "weight")
        if not network.quantized(linear):
            if entry is not None:
                yield f"{linear.native} is float, and described as quantized"
            continue
        if entry is None:
            yield f"{linear.native}.comfy_quant is missing: its codes would be read as values"
            continue
        says = parse_keys(bytes(entry.read().tolist())) if entry.dtype == torch.uint8 else None
        dtype = FORMATS.get(str((says or {}).get("format")))
        if says is None or codes is None or codes.dtype != dtype:
            yield f"{entry.name} says {says}, which is not how {linear.native} is stored"
            continue
        scale = network.leaf(linear, "input_scale")
        wants = dtype == torch.float8_e4m3fn and not says.get("full_precision_matrix_mult")
        if wants and scale is None:
            yield f"{linear.native}.input_scale is missing: its activations would be rounded at a scale of 1"
        elif scale is not None and not wants:
            yield f"{scale.name} is read by nobody"


def _wide_scales(network: Layered) -> Iterator[str]:
    for linear in network.linears():
        codes, scale = network.leaf(linear, "weight"), network.leaf(linear, "weight_scale")
        if codes is not None and scale is not None and codes.dtype != torch.int8 and scale.shape != ():
            yield f"{scale.name} is {list(scale.shape)}: the fp8 product takes one scale for the weight"


OWN_RULES: LayeredRules = {"descriptions": layers_describe_themselves}


class ComfyUIExport(Target):
    """Wan networks in the names of their own repository, one file each, in the newer or the older form."""

    name: Literal["comfyui"] = "comfyui"

    def looks_like(self, path: Path) -> bool:
        return any(name == MARKER or name.endswith(".comfy_quant") for file in _files(path) for name in file.entries)

    def verdicts(self, path: Path, sources: Sources) -> Iterator[Verdict]:
        folder = folder_of(path)
        networks = tuple(_network(folder, file, len(_files(path)) > 1) for file in _files(path))
        export = Export(folder, read_manifest(folder), {}, networks)
        yield verdict("", "files as written", manifest_agrees(export))
        for network in networks:
            yield from layered_verdicts(network, OWN_RULES, sources)


def _files(path: Path) -> list[TensorFile]:
    return [open_tensor_file(file) for file in (sorted(path.glob("*.safetensors")) if path.is_dir() else [path])]


def _network(folder: Path, file: TensorFile, several: bool) -> Layered:
    return Layered(
        folder=folder, label=file.path.name if several else "", files=(file,), runtime=None, scheme=None,
        config=sizes_from_shapes(file.entries), leaves=OLD if MARKER in file.entries else NEW,
        part="transformer_2" if "-transformer_2-" in file.path.name else "transformer",
    )  # fmt: skip
