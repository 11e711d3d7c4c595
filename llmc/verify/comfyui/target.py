"""ComfyUI: a layer without its description is read as float, and acts without a scale are rounded at a scale of 1."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from llmc.verify.base import Target
from llmc.verify.comfyui.network import (
    MARKER,
    ComfyNetwork,
    OlderNetwork,
    layers_describe_themselves,
    names_are_complete,
    scales_are_exact,
    shapes_are_right,
)
from llmc.verify.file_rules import manifest_agrees
from llmc.verify.files import TensorFile, open_tensor_file
from llmc.verify.manifest import read_manifest
from llmc.verify.network import Export, folder_of
from llmc.verify.plain_codes import PlainNetwork
from llmc.verify.plain_rules import PlainRules, plain_verdicts
from llmc.verify.settings import acts_are_the_judged_ones
from llmc.verify.sources import Sources
from llmc.verify.verdict import Checked, Finding, Verdict, verdict
from llmc.verify.witness import witness_agrees

OLD = {"weight": "weight", "weight_scale": "scale_weight", "input_scale": "scale_input"}


def the_marker_is_true(network: PlainNetwork) -> Finding:
    """What the older form says once for all layers holds for each of them."""
    return Checked([*_old_problems(network), *_wide_scales(network)], MARKER)


def _old_problems(network: PlainNetwork) -> Iterator[str]:
    alone = network.entries[MARKER].shape == (2,)
    for linear in network.linears:
        scale = network.leaf(linear, "input_scale")
        if network.quantized(linear) and (scale is None) != alone:
            says = "weights alone are quantized" if alone else "activations are quantized too"
            yield f"{linear.name} has {'no' if scale is None else 'a'} scale_input, and the file says that {says}"


def _wide_scales(network: PlainNetwork) -> Iterator[str]:
    for linear in network.linears:
        scale = network.leaf(linear, "weight_scale")
        if scale is not None and scale.shape != ():
            yield f"{scale.name} is {list(scale.shape)}: the fp8 product takes one scale for the weight"


OLD_RULES: PlainRules = {"descriptions": the_marker_is_true}
OWN_RULES: Mapping[str, Callable[[Any], Finding]] = {  # of a ComfyNetwork
    "names": names_are_complete,
    "types, shapes": shapes_are_right,
    "descriptions": layers_describe_themselves,
    "exact scales": scales_are_exact,
}
LAST_RULES: PlainRules = {"input arithmetic": acts_are_the_judged_ones, "witness": witness_agrees}


class ComfyUIExport(Target):
    """Wan networks in the names of their own repository, one file each, in the newer or the older form."""

    name: Literal["comfyui"] = "comfyui"

    def looks_like(self, path: Path) -> bool:
        return any(name == MARKER or name.endswith(".comfy_quant") for file in _files(path) for name in file.entries)

    def verdicts(self, path: Path, sources: Sources) -> Iterator[Verdict]:
        folder, files = folder_of(path), _files(path)
        networks = tuple(_network(folder, file, len(files) > 1, sources) for file in files)
        yield verdict("", "files as written", manifest_agrees(Export(folder, read_manifest(folder), networks, sources)))
        for network in networks:
            yield from plain_verdicts(network, OLD_RULES if MARKER in network.entries else OWN_RULES, LAST_RULES)


def _files(path: Path) -> list[TensorFile]:
    return [open_tensor_file(file) for file in (sorted(path.glob("*.safetensors")) if path.is_dir() else [path])]


def _network(folder: Path, file: TensorFile, several: bool, sources: Sources) -> PlainNetwork:
    kind = OlderNetwork if MARKER in file.entries else ComfyNetwork
    return kind(
        folder=folder, label=file.path.name if several else "", files=(file,), config=None, naming="original",
        part="transformer_2" if "-transformer_2-" in file.path.name else "transformer", sources=sources, leaves=OLD,
    )  # fmt: skip
