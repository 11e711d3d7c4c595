"""Where the float model is read from: a pipeline folder, and networks from elsewhere if the configuration says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmc.config.schema import ModelConfig
from llmc.convert.checkpoint import open_checkpoint
from llmc.convert.original import network_config, stored_network
from llmc.models.base import Part, StoredNetwork, pipeline_index


def load_pipeline(model: ModelConfig, device: str) -> Any:
    """The float pipeline that the section describes."""
    adapter = model.adapter()
    if stored := stored_networks(model):
        return adapter.load_with(stored, model.path, model.torch_dtype, device)
    return adapter.load(model.path, model.torch_dtype, device)


def skeleton(model: ModelConfig) -> list[Part]:
    """Its parts, without any weights."""
    adapter = model.adapter()
    if configs := _configs(model):
        return adapter.skeleton_with(configs, model.path)
    return adapter.skeleton(model.path)


def stored_networks(model: ModelConfig) -> dict[str, StoredNetwork]:
    """The networks that come from elsewhere, by the part that they are."""
    adapter, configs = model.adapter(), _configs(model)
    table = adapter.renames[adapter.release] if configs else ()
    parts = {part.name: part for part in adapter.skeleton_with(configs, model.path)} if configs else {}
    return {
        name: stored_network(path, open_checkpoint(path), configs[name], parts[name].module.state_dict(), table)
        for name, path in model.networks().items()
    }


def sources(model: ModelConfig) -> list[Path]:
    """Everything that the weights depend on, but LoRAs."""
    return [model.path, *model.networks().values()]


def _configs(model: ModelConfig) -> dict[str, dict[str, Any]]:
    index = pipeline_index(model.path)
    return {name: network_config(open_checkpoint(path), index.config(name)) for name, path in model.networks().items()}
