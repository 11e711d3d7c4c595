"""A quantized network written as MindIE-SD reads it, under the names that a script gives to the files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from llmc.atomic import staged_folder
from llmc.compat.modelslim.scripted.folder import clear_folder, forget_manifest
from llmc.compat.modelslim.scripted.ranks import get_rank, get_rank_suffix_file
from llmc.compat.modelslim.scripted.session import SaveProcessorConfig
from llmc.engine.network import Network
from llmc.errors import ExportError
from llmc.export.card import write_card
from llmc.export.manifest import write_manifest
from llmc.export.mindie.exporter import MindIE
from llmc.export.mindie.types import RunDtype
from llmc.export.part import FinishedPart
from llmc.files.json_text import read_object
from llmc.ledger.folder import versions
from llmc.log import log
from llmc.models.base import adapter_of

WEIGHT, DESCRIPTION = "quant_model_weight_", "quant_model_description_"


def exporter_of(model: nn.Module, save: SaveProcessorConfig, quantizes_attention: bool) -> MindIE:
    """What writes for a runtime that computes in the model's type; int8 attention is of 2.3 alone."""
    dtype: RunDtype = "fp16" if next(model.parameters()).dtype == torch.float16 else "bf16"
    version = save.mindie_version or ("2.3" if quantizes_attention else 3)
    return MindIE(mindie_version=version, soc=save.soc, dtype=dtype)


def write(network: Network, exporter: MindIE, save: SaveProcessorConfig, recipe: str) -> None:
    """All files, in place of those of an earlier save, or none of them."""
    part = finished(network, recipe)
    with staged_folder(save.output_path) as stage:
        exporter.write(part, stage)
        (description,) = stage.glob(f"{DESCRIPTION}*.json")
        (weight,) = stage.glob(f"{WEIGHT}*.safetensors")
        tell_names(read_object(description, ExportError)["model_quant_type"], save)
        description.rename(stage / (save.json_name or description.name))
        weight.rename(stage / (save.safetensors_name or weight.name))
        if get_rank() < 0:  # of several ranks none can speak for the files of all
            about, usage = exporter.about([part]), exporter.usage([part])
            usage = usage.replace(description.name, save.json_name or description.name)
            write_card(stage, [part], exporter.name, about, usage)
            write_manifest(stage, [part], exporter.name, about, apart=frozenset())
        written = {file.name for file in stage.iterdir()}
        forget_manifest(save.output_path)
    clear_folder(save.output_path, written)
    log.info("wrote the export to %s", save.output_path)


def tell_names(quant_type: str, save: SaveProcessorConfig) -> None:
    """MindIE-SD derives the name of the weights from the description: say so where it would look for another one."""
    rank = get_rank()
    expected = get_rank_suffix_file(f"{WEIGHT}{quant_type.lower()}", "safetensors", rank >= 0, rank)
    if save.safetensors_name not in (None, expected):
        log.warning("MindIE-SD looks for %s, and the file is called %s: rename it", expected, save.safetensors_name)


def finished(network: Network, recipe: str) -> FinishedPart:
    """The network as exporters want it."""
    part, config = network.part, network.part.module.config
    adapter = adapter_of(part.module)
    provenance = {"producer": f"llmc {versions()['llmc']}", "recipe": recipe}
    return FinishedPart(
        name=part.name,
        module=part.module,
        layers=network.layers,
        attentions=network.attentions,
        renames=adapter.renames,
        source=Path(_name(config) or type(part.module).__name__),
        provenance=provenance,
        sampling={},
        errors={name: error.figures() for name, error in network.errors.items()},
        versions=versions(),
        original=adapter.original(part.module),
    )


def _name(config: Any) -> str:
    return str(config.get("_name_or_path") or "")
