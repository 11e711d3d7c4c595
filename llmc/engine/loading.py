"""The float model of a run: its pipeline and its parts, loaded with weights that are lent, or handed over in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import torch

from llmc.config.schema import Config
from llmc.engine.lending import Lending, lent_parts
from llmc.engine.network import Order
from llmc.engine.source import check_components, pipeline_around
from llmc.errors import ConfigError
from llmc.layers.linear import QuantLinear
from llmc.layers.turns import AT_ONCE
from llmc.models.encoders import encoder_parts
from llmc.models.loaded import LoadedModel
from llmc.models.parts import Part
from llmc.section import Section

SMALLER = "base.resident: 0; model.torch_dtype: bfloat16, half of float32; of a device: base.device: cpu"


def orders_of(config: Config) -> dict[Section, Order]:
    """What each section of `quant` orders: a policy, and the methods."""
    return {section: (config.policy(section), config.recipe(section)) for section in config.quant.sections()}


def load_model(
    config: Config, device: torch.device, skeletons: Sequence[Part], runs: bool = False
) -> tuple[LoadedModel, list[Part]]:
    """The pipeline, if something has to run, and its parts."""
    adapter = config.model.adapter()
    runs = runs or config.eval is not None or config.observes()  # else weights are all that is looked at
    resident = None if config.base.resident == "auto" else config.base.resident
    lending = Lending(device, resident, AT_ONCE) if runs else Lending(device, 0, 1)
    parts = lent_parts(config.model, skeletons, lending)
    if not runs and len(parts) == len(skeletons):
        return LoadedModel(adapter), parts
    loaded = LoadedModel(adapter, pipeline_around(parts, config.model, device))
    return loaded, parts_of(loaded, config.quant.sections())


def given_model(config: Config, pipeline: Any) -> tuple[LoadedModel, list[Part]]:
    """A pipeline that somebody has loaded, and its parts; its weights may be others than those in its folder."""
    networks = [module for module in vars(pipeline).values() if isinstance(module, torch.nn.Module)]
    for network in networks:
        check_is_float(network)
    adapter = config.model.adapter()
    own = [part.module for part in parts_of(LoadedModel(adapter, pipeline), config.quant.sections())]
    loaded = LoadedModel(adapter, pipeline, digest_of(own))
    return loaded, parts_of(loaded, config.quant.sections())


def parts_of(loaded: LoadedModel, sections: Collection[Section]) -> list[Part]:
    """The denoising networks, and the encoders that are to be quantized; NaN and infinity beside them are refused."""
    parts = [*loaded.parts(), *encoder_parts(loaded.pipeline, loaded.adapter.encoders, sections)]
    check_components(loaded.pipeline, parts)
    return parts


def check_is_float(network: torch.nn.Module) -> None:
    """Refuse a network that is quantized already, or whose weights lie elsewhere."""
    name = type(network).__name__
    if any(isinstance(module, QuantLinear) for module in network.modules()):
        raise ConfigError(f"the {name} is quantized already; load its float weights again to quantize it otherwise")
    if any(parameter.is_meta for parameter in network.parameters()):
        raise ConfigError(
            f"weights of the {name} are offloaded; load the pipeline without offloading (or give llmc.load its folder, "
            "and blocks are read as they are needed)"
        )


def digest_of(networks: Iterable[torch.nn.Module]) -> str:
    """A short name of all weights, by which calibrations that were cut off and float videos are found again."""
    found = hashlib.sha256()
    for network in networks:
        for name, tensor in network.state_dict().items():
            found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            found.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()[:16]


def judged_sampling(config: Config) -> dict[str, Any]:
    """How the videos are made that a recipe is judged by; without `eval` those that it is calibrated on, if any."""
    samplings = config.eval_samplings() or (() if config.calib is None else (config.calib_sampling(),))
    said = samplings[0].model_dump() if samplings else {}
    schedule = config.model.adapter().index(config.model.path).schedule()
    return {**schedule, **{key: value for key, value in said.items() if value is not None}}
