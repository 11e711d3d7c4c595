"""LightX2V: its loader takes a file with a missing scale, a wrong order or a foreign name without a word."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from llmc.verify import file_rules, value_rules
from llmc.verify.base import Target
from llmc.verify.files import open_tensor_file
from llmc.verify.lightx2v import file_rules as own_file_rules
from llmc.verify.lightx2v import name_rules, settings
from llmc.verify.lightx2v.encoders import encoder_verdicts
from llmc.verify.lightx2v.network import LightX2VExport as Export
from llmc.verify.lightx2v.network import WanNetwork, open_export
from llmc.verify.network import folder_of, network_folders
from llmc.verify.sources import Sources
from llmc.verify.verdict import Finding, Verdict, apply_rules
from llmc.verify.witness import witness_agrees

EXPORT_RULES: Mapping[str, Callable[[Export], Finding]] = {
    "files as written": file_rules.manifest_agrees,
    "runtime JSON": own_file_rules.runtime_fits,
    "runtime settings": settings.runtime_is_as_judged,
}
FILE_RULES: Mapping[str, Callable[[WanNetwork], Finding]] = {
    "files whole": file_rules.files_are_whole,
    "config.json": own_file_rules.config_describes,
    "network settings": settings.network_is_the_judged_one,
}
NETWORK_RULES: Mapping[str, Callable[[WanNetwork], Finding]] = {
    "one precision": own_file_rules.one_precision,
    "layout": own_file_rules.layout_is_right,
    "one naming": name_rules.one_naming,
    "names": name_rules.names_are_complete,
    "types": name_rules.types_are_right,
    "shapes": name_rules.shapes_are_right,
    "scales": name_rules.scales_are_there,
    "quant_method": name_rules.smoothing_is_declared,
    "alignment": name_rules.sizes_fit_kernels,
    "scale values": name_rules.scales_are_good,
    "against the float model": value_rules.weights_are_the_models,
    "floats against the model": value_rules.floats_are_the_models,
    "against the judged weights": value_rules.weights_are_the_judged_ones,
    "against the judged tensors": value_rules.tensors_are_the_judged_ones,
    "input arithmetic": settings.inputs_are_rounded_as_judged,
    "witness": witness_agrees,
}


class LightX2VExport(Target):
    """A Wan network in any scheme of LightX2V, in its own names or, as LLMC writes it, in diffusers'."""

    name: Literal["lightx2v"] = "lightx2v"

    def looks_like(self, path: Path) -> bool:
        folder = folder_of(path)
        if any(folder.glob("lightx2v_*.json")):
            return True
        if any(folder.glob("**/quant_model_description*.json")):  # MindIE's, whose tensors have the same ends
            return False
        files = [file for place in network_folders(folder) for file in place.glob("*.safetensors")]
        names = {name.rpartition(".")[2] for file in files for name in open_tensor_file(file).entries}
        return "weight_scale" in names and "comfy_quant" not in names

    def verdicts(self, path: Path, sources: Sources) -> Iterator[Verdict]:
        export = open_export(path, sources)
        yield from apply_rules("", EXPORT_RULES, export)
        for network in export.networks:
            assert isinstance(network, WanNetwork)
            yield from apply_rules(network.label, FILE_RULES, network)
            yield from apply_rules(network.label, NETWORK_RULES, network, why_not=network.unknown)
        yield from encoder_verdicts(export)
