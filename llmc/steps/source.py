"""Where the float model is read from: a pipeline folder, and networks from elsewhere if the configuration says so."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from llmc.config.model import ModelConfig
from llmc.convert.checkpoint import Checkpoint
from llmc.convert.encoders import load_encoder
from llmc.convert.names import Names
from llmc.convert.weights import common_dtype, find_weights, network_config, open_network
from llmc.log import log
from llmc.models.base import ModelAdapter, Part, Section, pipeline_index
from llmc.models.encoders import encoder_skeletons
from llmc.models.networks import dtype_of, filled_network
from llmc.renames import Original


def load_pipeline(model: ModelConfig, device: str) -> Any:
    """The float pipeline that the section describes."""
    pipeline = model.adapter().load(model.path, model.torch_dtype, device, **given_networks(model))
    for name, path in model.encoder_weights().items():
        load_encoder(getattr(pipeline, name), path)
        log.info("read the weights of the %s from %s", name, path)
    return pipeline


def skeleton(model: ModelConfig, sections: Collection[Section]) -> list[Part]:
    """Its parts that these sections of `quant` are about, without any weights."""
    adapter = model.adapter()
    opened = {name: open_network(path) for name, path in model.networks().items()}
    networks = adapter.skeleton(model.path, **_configs(model, opened))
    return [*networks, *encoder_skeletons(model.path, adapter.encoders, sections)]


def given_networks(model: ModelConfig) -> dict[str, torch.nn.Module]:
    """The networks that come from elsewhere, by the part that they are."""
    opened = {name: open_network(path) for name, path in model.networks().items()}
    if not opened:
        return {}
    adapter = model.adapter()
    if model.torch_dtype == "auto" and "transformer" in opened:
        dtype = common_dtype(opened["transformer"])
    else:
        dtype = dtype_of(model.path, model.torch_dtype, {})
    given = {}
    for part in adapter.skeleton(model.path, **_configs(model, opened)):
        if part.name in opened:
            path, tensors = model.networks()[part.name], opened[part.name].tensors
            naming = Names(adapter.original(part.module))
            found = find_weights(path, tensors, part.module.state_dict(), naming)
            given[part.name] = filled_network(part.module, found, dtype)
            log.info("read the weights of the %s from %s", part.name, path)
    return given


def sources(model: ModelConfig) -> list[Path]:
    """Everything that the weights depend on, but LoRAs."""
    return [
        *model.adapter().sources(model.path).values(),
        *model.networks().values(),
        *model.encoder_weights().values(),
    ]


def lora_tables(adapter: ModelAdapter, part: Part) -> list[Original]:
    """The tables that a LoRA of a part may be named by."""
    return [table for table in (*adapter.renames.values(), adapter.original(part.module)) if table]


def _configs(model: ModelConfig, opened: dict[str, Checkpoint]) -> dict[str, dict[str, Any]]:
    if not opened:
        return {}
    index = pipeline_index(model.path)
    return {name: network_config(checkpoint, index.config(name)) for name, checkpoint in opened.items()}
