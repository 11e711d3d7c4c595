"""MindIE: a layer whose name or type its loader does not know is passed over without a word, and computed in float."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from llmc.verify import file_rules
from llmc.verify import value_rules as shared
from llmc.verify.base import Target
from llmc.verify.manifest import read_manifest
from llmc.verify.mindie import attention, rules, settings, value_rules
from llmc.verify.mindie.network import DESCRIPTION, Described, described_networks
from llmc.verify.network import Export, folder_of
from llmc.verify.settings import acts_are_the_judged_ones
from llmc.verify.sources import Sources
from llmc.verify.verdict import Finding, Verdict, apply_rules, verdict
from llmc.verify.witness import witness_agrees

FILE_RULES: Mapping[str, Callable[[Described], Finding]] = {
    "file names": rules.files_are_found,
    "files whole": file_rules.files_are_whole,
}
DESCRIPTION_RULES: Mapping[str, Callable[[Described], Finding]] = {  # which need to know nothing of the network
    "description": rules.description_fits,
    "types, shapes": rules.tensors_are_right,
    "smoothing": rules.smoothing_is_whole,
    "kernels": rules.runtime_takes_them,
    "static grids": value_rules.static_grids_agree,
    "steps": value_rules.steps_are_alike,
    "attention": attention.attention_is_whole,
    "scale values": value_rules.values_are_good,
}
NETWORK_RULES: Mapping[str, Callable[[Described], Finding]] = {
    "names": rules.names_are_complete,
    "floats against the model": shared.floats_are_the_models,
    "against the float model": shared.weights_are_the_models,
    "against the judged weights": shared.weights_are_the_judged_ones,
    "against the judged tensors": shared.tensors_are_the_judged_ones,
    "input arithmetic": acts_are_the_judged_ones,
    "attention as judged": settings.attention_is_the_judged_one,
    "schedule": settings.schedule_is_the_judged_one,
    "witness": witness_agrees,
}


class MindIEExport(Target):
    """A network in the names of the repository that MindIE runs, one file with a description beside it."""

    name: Literal["mindie"] = "mindie"

    def looks_like(self, path: Path) -> bool:
        return any(folder_of(path).glob(f"**/{DESCRIPTION}*.json"))

    def verdicts(self, path: Path, sources: Sources) -> Iterator[Verdict]:
        folder = folder_of(path)
        networks = described_networks(folder, sources)
        export = Export(folder, read_manifest(folder), networks, sources)
        yield verdict("", "files as written", file_rules.manifest_agrees(export))
        for network in networks:
            yield from apply_rules(network.label, FILE_RULES, network)
            yield from apply_rules(network.label, DESCRIPTION_RULES, network, why_not=network.unreadable)
            yield from apply_rules(network.label, NETWORK_RULES, network, why_not=network.unknown)
