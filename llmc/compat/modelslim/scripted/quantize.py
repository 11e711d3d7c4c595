"""Quantize a model from a script: the recipe of a session, on recorded calls, by the engine that `llmc run` uses."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import nn

from llmc.calib.store import CallStore
from llmc.checks.attentions import check_attentions
from llmc.checks.layers import check_layers
from llmc.compat.modelslim.scripted.call_checks import check_calls, check_origin
from llmc.compat.modelslim.scripted.dump import read_calls
from llmc.compat.modelslim.scripted.export import exporter_of, write
from llmc.compat.modelslim.scripted.folder import check_folder
from llmc.compat.modelslim.scripted.layers import names_of_linears, resolve_layers
from llmc.compat.modelslim.scripted.ranks import get_rank
from llmc.compat.modelslim.scripted.session import ActMethod, SessionConfig
from llmc.config.quant import NetworkConfig
from llmc.engine.attention import calibrate_attentions
from llmc.engine.blocks import quantize_all, quantize_on_calls
from llmc.engine.device import choose_device
from llmc.engine.network import Network, layer_names, prepare
from llmc.errors import CalibrationError, ConfigError, UnsupportedSpec
from llmc.export.base import Exporter
from llmc.layers.linear import QuantLinear, in_mode
from llmc.ledger.summary import methods
from llmc.lock import held
from llmc.log import log
from llmc.models.base import adapter_of
from llmc.models.parts import Part
from llmc.policy.attention import AttentionPolicy
from llmc.policy.rules import Policy

MAX_ROWS = 2048  # of each input, to search and to check on: what a configuration has where it says nothing
RANGES: dict[ActMethod, str] = {"minmax": "absmax", "histogram": "mse", "mix": "output"}


def quant_model(model: nn.Module, session_cfg: SessionConfig) -> None:
    """Quantize the linears of a model, and write them if there is `save`; the model then computes as quantized."""
    adapter_of(model)  # so that nothing else is taken for a model
    if not isinstance(session_cfg, SessionConfig):
        raise ConfigError(f"session_cfg is of the type {type(session_cfg).__name__}; give a SessionConfig(...)")
    save = session_cfg.processor_cfg_map.get("save")
    exporters = [] if save is None else [exporter_of(model, save, "fa3" in session_cfg.processor_cfg_map)]
    if save is not None:
        check_folder(save.output_path, "output_path", save.safetensors_name)
    device = choose_device(session_cfg.device, "SessionConfig.device")
    with nullcontext() if save is None else held(save.output_path, "SaveProcessorConfig.output_path", get_rank()):
        with torch.autocast(device.type, enabled=False):  # a script may ask for it: statistics and solvers are float32
            network = quantize(model.to(device), session_cfg, exporters)
        if save is None:
            log.warning("processor_cfg_map has no `save`: the model is quantized in memory alone")
        else:
            recipe = recipe_of(session_cfg)
            attention = "" if recipe.attention is None else f", attention {recipe.attention.spec()}"
            write(network, exporters[0], save, f"{methods(recipe.method)}: {recipe.default_spec()}{attention}")


@torch.no_grad()
def quantize(model: nn.Module, session: SessionConfig, exporters: Sequence[Exporter]) -> Network:
    """The model with quantized linears, so that the exporters can write them."""
    if any(isinstance(module, QuantLinear) for module in model.modules()):
        raise ConfigError("the model is quantized already; load its float weights again to quantize it in another way")
    adapter, recipe = adapter_of(model), recipe_of(session)
    part = adapter.part_of(model)
    calls = calls_of(part, session, recipe)
    disabled = disabled_layers(part, session.linear.disable_names)
    if recipe.attention is None and len(disabled) == len(layer_names(part)):
        raise ConfigError(
            f"disable_names has all {len(disabled)} linears that can be quantized, so that nothing would be; leave "
            "some out: get_disable_layer_names gives the names of what is NOT to be quantized"
        )
    policy = Policy(recipe.default_spec(), ignored_layers=disabled)
    attention = None if recipe.attention is None else AttentionPolicy(recipe.attention.spec())
    try:
        check_layers(adapter, [part], {part.section: (policy, recipe.method)}, exporters)
    except UnsupportedSpec as error:
        raise UnsupportedSpec(f"{error}\n  What to do: have all of them in disable_names, or none") from None
    check_attentions([part], attention, exporters)
    network = prepare(part, policy, exporters, recipe.method, attention=attention)
    if network.needs:
        for block in network.blocks:
            block.steps = steps_of(calls)
        quantize_on_calls(network, calls, MAX_ROWS)
    else:
        quantize_all([network])
    if network.attentions:  # what methods do to linears changes what attentions are given
        with in_mode(network.layers.values(), "transformed"):
            calibrate_attentions(part, network.attentions, calls, max_error=None)
    for switched in network.switched:
        switched.mode = "quantized"
    return network


def calls_of(part: Part, session: SessionConfig, recipe: NetworkConfig) -> CallStore:
    """What the model was called with, where a method reads it; refused where it could not work on that."""
    readers = [method.name for method in recipe.method if method.needs]
    if recipe.attention is not None:
        readers.append("fa3")
    if not readers:  # a copy of the calls would be for nothing
        return CallStore()
    calib_data = session.calib_data or ()
    check_origin(calib_data, part.module)
    calls = read_calls(calib_data, part.module, with_steps="w8a8_timestep" in session.processor_cfg_map)
    if len(calls) == 0:
        raise CalibrationError(
            f"calib_data is empty, and {readers[0]} reads what the model was called with; give it what "
            "DumperManager.save wrote"
        )
    check_calls(part, calls)
    return calls


def steps_of(calls: CallStore) -> int:
    """How many denoising steps the calls are of."""
    return max(call.step for call in calls.headers()) + 1


def recipe_of(session: SessionConfig) -> NetworkConfig:
    """The recipe as the section `quant.video_gen` of a configuration says it."""
    asked = session.processor_cfg_map
    recipe: list[dict[str, Any]] = []
    if "m3" in asked:
        recipe.append({"name": "Awq", "clip": False})
    if "m4" in asked:
        recipe.append({"name": "IterSmooth", "alpha": 0.5})
    if "m6" in asked:
        recipe.append({"name": "FlexSmooth", **asked["m6"].cfg.model_dump(exclude_none=True)})
    act: dict[str, Any] = {"bit": 8, "granularity": "per_tensor", "symmetric": False, "static": True}
    if "w8a8" in asked:
        recipe.append({"name": "Static", "range": RANGES[asked["w8a8"].cfg.act_method]})
    elif "w8a8_timestep" in asked:
        own = asked["w8a8_timestep"]
        range_ = RANGES[own.cfg.act_method]
        recipe.append({"name": "Timestep", "range": range_, "timestep_sep": own.timestep_sep})
    else:
        act = {"bit": 8, "granularity": "per_token"}
    weight = {"bit": 8, "granularity": "per_channel"}
    attention = {"bit": 8, "static": True} if "fa3" in asked else None
    return NetworkConfig.model_validate(
        {"method": recipe or "RTN", "weight": weight, "act": act, "attention": attention}
    )


def disabled_layers(part: Part, names: list[str]) -> tuple[str, ...]:
    """Those of the quantizable linears that stay float; what could not be quantized anyway is told."""
    disabled = set(resolve_layers(part.module, names))
    quantizable = layer_names(part)
    outside = names_of_linears(part.module).keys() - disabled - set(quantizable)
    if outside:
        log.info("%d linears outside of the quantized groups stay float too, such as %s", len(outside), min(outside))
    return tuple(name for name in quantizable if name in disabled)
