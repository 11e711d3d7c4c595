"""The networks of a model, their weights lent: from its folder or from elsewhere, LoRAs merged as the tensors come."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path

import torch

from llmc.config.model import ModelConfig
from llmc.convert.checkpoint import open_checkpoint
from llmc.convert.lora import Lora, with_loras
from llmc.convert.mapped import mapped
from llmc.convert.names import Names
from llmc.convert.safetensors_file import LazyTensor, byte_count
from llmc.convert.weights import Cast, common_dtype, find_weights, open_network
from llmc.convert.writer import STEM
from llmc.engine.device import free_memory
from llmc.errors import AdapterError
from llmc.layers.lender import Lender
from llmc.layers.turns import AT_ONCE
from llmc.log import log
from llmc.models.base import ModelAdapter
from llmc.models.networks import loaded_dtype, misfits, unfilled_network
from llmc.models.parts import Part
from llmc.renames import Original

Tensors = Mapping[str, LazyTensor]
SHARE = 0.5  # of the memory that is free, for weights that stay: the rest is for codes, statistics and what runs


@dataclass(frozen=True)
class Lending:
    """Where networks run, how many blocks keep their weights there (None: as many as fit), and how many others have
    theirs at a time."""

    device: torch.device
    resident: int | None = None
    at_once: int = AT_ONCE


def lent_parts(model: ModelConfig, skeletons: Sequence[Part], lending: Lending) -> list[Part]:
    """The denoising networks that skeletons are of, with lent weights; those in other files than safetensors, which
    libraries read, are left out."""
    adapter = model.adapter()
    released = {name: path for name, path in adapter.index(model.path).files.items() if name in adapter.networks}
    elsewhere = released | model.networks()
    opened: dict[str, Tensors] = {}
    for part in skeletons:
        folder = model.path / (part.folder or part.name)
        if part.name in elsewhere:
            opened[part.name] = _read_elsewhere(adapter, part, elsewhere[part.name])
        elif part.is_denoiser and any(folder.glob("*.safetensors")):
            opened[part.name] = _read_folder(folder, part)
    dtype, free = _dtype(model, opened), free_memory(lending.device)
    room = None if free is None else SHARE * free / max(1, len(opened))
    return [_lent(model, part, opened[part.name], dtype, lending, room) for part in skeletons if part.name in opened]


def lora_tables(adapter: ModelAdapter, part: Part) -> list[Original]:
    """The tables that a LoRA of a part may be named by."""
    return [table for table in (*adapter.renames.values(), adapter.original(part.module)) if table]


def _read_elsewhere(adapter: ModelAdapter, part: Part, path: Path) -> Tensors:
    naming = Names(adapter.original(part.module))
    found = find_weights(path, mapped(open_network(path).tensors), part.module.state_dict(), naming)
    log.info("read the weights of the %s from %s", part.name, path)
    return found


def _read_folder(folder: Path, part: Part) -> Tensors:
    """The tensors of a component; what is there besides is of no harm: libraries leave it out."""
    single = folder / f"{STEM}.safetensors"
    stored = open_checkpoint(single if single.is_file() else folder).tensors
    wanted = {name: tuple(tensor.shape) for name, tensor in part.module.state_dict().items()}
    found = {name: tensor for name, tensor in stored.items() if name in wanted}
    if lines := misfits({name: tuple(tensor.shape) for name, tensor in found.items()}, wanted):
        text = "\n".join([f"{folder} does not fit the network that its config.json describes:", *lines])
        raise AdapterError(f"{text}\n  Copy or download that folder again.")
    return mapped(found)


def _dtype(model: ModelConfig, opened: Mapping[str, Tensors]) -> torch.dtype:
    """The type that networks run in: the one asked for, or that of the first one."""
    if model.torch_dtype != "auto":
        asked: torch.dtype = getattr(torch, model.torch_dtype)
        return asked
    return common_dtype(next(iter(opened.values()), {}))


def _lent(
    model: ModelConfig, part: Part, tensors: Tensors, dtype: torch.dtype, lending: Lending, room: float | None
) -> Part:
    """The part with a network that can run."""
    network = unfilled_network(part.module)
    cast: Tensors = {name: Cast(tensor, loaded_dtype(network, name, dtype)) for name, tensor in tensors.items()}
    blocks = [(name, network.get_submodule(name)) for name, _ in part.blocks]
    resident = _fitting(part, cast, room) if lending.resident is None else lending.resident
    modules = [block for _, block in blocks]
    Lender(part.name, network, modules, _merged(model, part, cast), lending.device, resident, lending.at_once)
    return replace(part, module=network, blocks=blocks)


def _fitting(part: Part, tensors: Tensors, room: float | None) -> int:
    """How many of its first blocks fit into so many bytes; all, where nobody can tell what is free."""
    sizes = [sum(byte_count(tensor) for name, tensor in tensors.items() if name.startswith(f"{block}."))
             for block, _ in part.blocks]  # fmt: skip
    return len(sizes) if room is None else sum(end <= room for end in accumulate(sizes))


def _merged(model: ModelConfig, part: Part, tensors: Tensors) -> Tensors:
    """With the LoRAs that are for it: each is added to what those before it made, and rounded."""
    namings = [Names(table) for table in lora_tables(model.adapter(), part)]
    for lora in model.lora:
        if lora.part in (None, part.name):
            before, tensors = tensors, with_loras(tensors, [Lora(lora.path, lora.strength)], namings)
            changed = {name.rpartition(".")[0] for name in tensors if tensors[name] is not before[name]}
            log.info("merging %s into %d modules of %s", lora.path.name, len(changed), part.name)
    return tensors
