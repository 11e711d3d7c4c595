"""LightX2V: its loader takes a file with a missing scale, a wrong order or a foreign name without a word."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from llmc.verify import file_rules, value_rules
from llmc.verify.base import Target
from llmc.verify.files import open_tensor_file
from llmc.verify.lightx2v import name_rules
from llmc.verify.lightx2v.encoders import encoder_verdicts
from llmc.verify.lightx2v.forward_rule import forward_is_close
from llmc.verify.network import Export, Network, folder_of, network_folders, open_export
from llmc.verify.sources import Sources
from llmc.verify.verdict import Finding, NotChecked, Verdict, apply_rules, verdict
from llmc.verify.wan import Wan

EXPORT_RULES: Mapping[str, Callable[[Export], Finding]] = {
    "files as written": file_rules.manifest_agrees,
    "runtime JSON": file_rules.runtime_fits,
}
FILE_RULES: Mapping[str, Callable[[Network], Finding]] = {
    "files whole": file_rules.files_are_whole,
    "config.json": file_rules.config_describes,
}
NETWORK_RULES: Mapping[str, Callable[[Network], Finding]] = {
    "one precision": file_rules.one_precision,
    "layout": file_rules.layout_is_right,
    "one naming": name_rules.one_naming,
    "names": name_rules.names_are_complete,
    "types": name_rules.types_are_right,
    "shapes": name_rules.shapes_are_right,
    "scales": name_rules.scales_are_there,
    "quant_method": name_rules.smoothing_is_declared,
    "alignment": name_rules.sizes_fit_kernels,
}
NEEDED_TO_RUN = ("names", "types", "shapes", "scales", "one naming")
VALUE_RULES: Mapping[str, Callable[[Network, Sources], Finding]] = {
    "scale values": value_rules.scales_are_good,
    "against the float model": value_rules.weights_are_the_models,
    "against the judged weights": value_rules.weights_are_the_judged_ones,
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
        export = open_export(path)
        yield from apply_rules("", EXPORT_RULES, export)
        for network in export.networks:
            yield from _network_verdicts(network, sources)
        yield from encoder_verdicts(export, sources)


def _network_verdicts(network: Network, sources: Sources) -> Iterator[Verdict]:
    yield from apply_rules(network.label, FILE_RULES, network)
    why = network.unreadable
    if not why and not isinstance(network.described, Wan):
        why = "config.json does not describe the network"
    of_network = list(apply_rules(network.label, NETWORK_RULES, network, why_not=why))
    yield from of_network
    yield from apply_rules(network.label, VALUE_RULES, network, sources, why_not=why)
    if any(found.status != "pass" for found in of_network if found.rule in NEEDED_TO_RUN):
        why = why or "names, types or shapes are wrong"
    yield verdict(network.label, "forward", NotChecked(why) if why else forward_is_close(network, sources))
