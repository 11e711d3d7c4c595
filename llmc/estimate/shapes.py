"""The networks of a configuration by their shapes: on the meta device, in the types that they will be loaded in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from llmc.config.model import ModelConfig
from llmc.config.schema import Config
from llmc.engine.network import Network, prepare_all
from llmc.engine.source import skeleton
from llmc.models.base import ModelAdapter
from llmc.models.components import empty_component, scheduler_of
from llmc.models.index import PipelineIndex, stored_dtype
from llmc.models.networks import loaded_dtype
from llmc.section import Section

FLOAT32 = ("vae", "image_encoder")  # components that pipelines keep in it, where a family says nothing else


@dataclass(frozen=True)
class Shapes:
    """What a configuration loads."""

    adapter: ModelAdapter
    index: PipelineIndex
    networks: list[Network]  # made ready; of the denoising networks alone
    components: Mapping[str, int]  # bytes of each that runs beside them
    dtype: torch.dtype
    fused: bool = True  # whether the device has an attention that holds no scores


def shapes_of(config: Config, fused: bool = True) -> Shapes:
    """Read from the headers and configurations in the model's folder; weights need not be there."""
    adapter = config.model.adapter()
    index, dtype = adapter.index(config.model.path), dtype_of(config.model)
    parts = skeleton(config.model, [Section.VIDEO_GEN])
    for part in parts:
        cast(part.module, dtype)
    order = {Section.VIDEO_GEN: (config.policy(), config.recipe())}
    exporters = [exporter for exporter, _ in config.save.targets()]
    networks = prepare_all(parts, order, exporters, config.attention_policy(), adapter.original)
    return Shapes(adapter, index, networks, component_bytes(adapter, index, dtype), dtype, fused)


def dtype_of(model: ModelConfig) -> torch.dtype:
    """The type that networks run in: the one asked for, the one stored, or bfloat16 where nothing is stored yet."""
    if model.torch_dtype != "auto":
        asked: torch.dtype = getattr(torch, model.torch_dtype)
        return asked
    folder = model.transformer or model.adapter().index(model.path).files.get("transformer", model.path / "transformer")
    folder = folder if folder.is_dir() else folder.parent
    return stored_dtype(folder) if any(folder.glob("*.safetensors")) else torch.bfloat16


def cast(network: nn.Module, dtype: torch.dtype) -> None:
    """Give parameters the types that they are loaded in."""
    for path, module in network.named_modules():
        for leaf, parameter in module._parameters.items():
            if parameter is not None:
                wanted = loaded_dtype(network, f"{path}.{leaf}", dtype)
                empty = torch.empty(parameter.shape, dtype=wanted, device="meta")
                module._parameters[leaf] = nn.Parameter(empty, requires_grad=False)


def component_bytes(adapter: ModelAdapter, index: PipelineIndex, dtype: torch.dtype) -> dict[str, int]:
    """Of the encoders and the autoencoder."""
    precise = getattr(adapter, "float32", FLOAT32)
    found = {}
    for name in index.components.keys() - set(adapter.networks):
        module = empty_component(index, name)
        if module is not None:
            size = torch.float32.itemsize if name in precise else dtype.itemsize
            found[name] = size * sum(parameter.numel() for parameter in module.parameters())
            found[name] += sum(buffer.nbytes for buffer in module.buffers())
    return dict(sorted(found.items()))


def stand_in_pipeline(shapes: Shapes) -> Any:
    """What an adapter asks of a pipeline to say how often its networks are called."""
    networks = {network.part.name: network.part.module for network in shapes.networks}
    settings = SimpleNamespace(**shapes.index.settings)
    return SimpleNamespace(**networks, scheduler=scheduler_of(shapes.index), config=settings)
