"""Where the float model is read from: a pipeline folder, and networks from elsewhere if the configuration says so."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from llmc.config.model import ModelConfig
from llmc.convert.checkpoint import Checkpoint, open_checkpoint
from llmc.convert.encoders import encoder_weights, load_encoder
from llmc.convert.lora_file import read_lora
from llmc.convert.names import Names
from llmc.convert.weights import find_weights, network_config, open_network
from llmc.engine.lending import Lending, lent_parts
from llmc.layers.finite import check_tensors
from llmc.log import log
from llmc.models.encoders import empty_encoder, encoder_skeletons, filled_encoder, section_of
from llmc.models.networks import dtype_of, empty_network, filled_network
from llmc.models.parts import Part
from llmc.section import Section


def load_pipeline(model: ModelConfig, device: str) -> Any:
    """The float pipeline that the section describes."""
    where = torch.device(device)
    return pipeline_around(lent_parts(model, skeleton(model, ()), Lending(where)), model, where)


def pipeline_around(networks: Sequence[Part], model: ModelConfig, device: torch.device) -> Any:
    """The float pipeline of networks that are there already."""
    given = {network.name: network.module for network in networks}
    given |= released_components(model, given)
    pipeline = model.adapter().load(model.path, model.torch_dtype, str(device), **given)
    for name, path in model.encoder_weights().items():
        if name not in given:
            load_encoder(getattr(pipeline, name), path)
            log.info("read the weights of the %s from %s", name, path)
    return pipeline


def check_components(pipeline: Any, parts: Sequence[Part]) -> None:
    """Refuse NaN and infinity in what a pipeline runs beside its parts: text encoders, the autoencoder."""
    quantized = {id(part.module) for part in parts}
    for name, component in vars(pipeline).items():
        if isinstance(component, torch.nn.Module) and id(component) not in quantized:
            check_tensors(name, component)


def skeleton(model: ModelConfig, sections: Collection[Section]) -> list[Part]:
    """Its parts that these sections of `quant` are about, without any weights."""
    adapter = model.adapter()
    opened = {name: open_network(path) for name, path in model.networks().items()}
    networks = adapter.skeleton(model.path, **_configs(model, opened))
    return [*networks, *encoder_skeletons(adapter.index(model.path), adapter.encoders, sections)]


def check_files(model: ModelConfig, parts: Sequence[Part]) -> None:
    """Refuse networks from elsewhere whose tensors do not fit, and files that are no LoRAs; only headers are read."""
    adapter, places = model.adapter(), model.networks()
    for part in parts:
        if part.name in places:
            path, naming = places[part.name], Names(adapter.original(part.module))
            find_weights(path, open_network(path).tensors, part.module.state_dict(), naming)
    for lora in model.lora:
        read_lora(lora.path)


def released_components(model: ModelConfig, given: Mapping[str, torch.nn.Module]) -> dict[str, torch.nn.Module]:
    """What a release holds beside its networks; what pictures go through is kept in float32, as pipelines do."""
    adapter = model.adapter()
    index = adapter.index(model.path)
    components: dict[str, torch.nn.Module] = {}
    for name in index.files.keys() - given.keys() if index.is_release else ():
        path = model.encoder_weights().get(name, index.files[name])
        if name == "vae":
            empty = empty_network(index.config(name))
            naming = Names(adapter.original(empty))
            found = find_weights(path, open_checkpoint(path).tensors, empty.state_dict(), naming)
            components[name] = filled_network(empty, found, torch.float32)
        else:
            encoder = empty_encoder(index.components[name], index.config(name))
            exact = section_of(name) == "image_encoder"
            dtype = torch.float32 if exact else dtype_of(model.path, model.torch_dtype, given)
            components[name] = filled_encoder(encoder, encoder_weights(encoder, path), dtype)
        log.info("read the weights of the %s from %s", name, path)
    return components


def sources(model: ModelConfig) -> list[Path]:
    """Everything that the weights depend on, but LoRAs."""
    return [
        *model.adapter().sources(model.path).values(),
        *model.networks().values(),
        *model.encoder_weights().values(),
    ]


def _configs(model: ModelConfig, opened: dict[str, Checkpoint]) -> dict[str, dict[str, Any]]:
    if not opened:
        return {}
    index = model.adapter().index(model.path)
    return {name: network_config(checkpoint, index.config(name)) for name, checkpoint in opened.items()}
