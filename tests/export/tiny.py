"""A tiny Wan I2V, quantized for a target, as an exporter is handed it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from llmc.algorithms.base import Algorithm
from llmc.algorithms.smoothquant import SmoothQuant
from llmc.calib.samples import read_samples
from llmc.engine.calibrate import CalibrationPlan, calibrate
from llmc.engine.network import Network, prepare
from llmc.export.base import Exporter
from llmc.export.part import FinishedPart
from llmc.layers.linear import in_mode
from llmc.models.base import adapters
from llmc.models.loaded import LoadedModel
from llmc.models.samples import Sampling
from llmc.models.wan import WanI2V
from llmc.numerics.spec import LayerSpec, TensorSpec
from llmc.policy.rules import Policy
from tests.tiny_pipelines import TINY, save_samples, save_wan_i2v

SAMPLING = Sampling(height=32, width=32, num_frames=5, steps=2, guidance_scale=1.0, seed=3)
SMOOTH = (SmoothQuant(alpha=0.5, gate=False),)


def spec(name: str, act: bool = True) -> LayerSpec:
    """Weights in that format, for each channel; acts too, for each token, or float."""
    weight = TensorSpec(format=name, granularity="per_channel")
    return LayerSpec(weight=weight, act=TensorSpec(format=name, granularity="per_token") if act else None)


def save_tiny(folder: Path) -> Path:
    """A pipeline and a sample to calibrate on."""
    save_wan_i2v(folder / "model")
    save_samples(folder / "samples", 1)
    return folder


@torch.no_grad()
def finished_part(
    folder: Path, exporter: Exporter, policy: Policy, dtype: str = "float32", recipe: tuple[Algorithm, ...] = SMOOTH
) -> tuple[FinishedPart, Network]:
    """The transformer after calibration."""
    adapter = WanI2V()
    pipeline = adapter.load(folder / "model", dtype, "cpu")
    (whole,) = adapter.parts(pipeline)
    network = prepare(whole, policy, [exporter], recipe, original=adapter.original(whole.module))
    samples = read_samples(folder / "samples", needs_image=True)
    calibrate(
        LoadedModel(adapter, pipeline),
        [network],
        CalibrationPlan([(i, s, SAMPLING) for i, s in enumerate(samples)], 64),
    )
    part = FinishedPart(
        "transformer", network.part.module, network.layers, adapter.renames, folder / "model",
        {"producer": "test"}, {**SAMPLING.model_dump(), "shift": 3.0}, original=network.original,
    )  # fmt: skip
    return part, network


@torch.no_grad()
def weights_alone(network: Network) -> torch.Tensor:
    """What the network gives with its rounded weights and float activations."""
    for layer in network.layers.values():
        layer.spec = LayerSpec(weight=layer.spec.weight)
    with in_mode(network.layers.values(), "quantized"):
        return output(network.part.module)


@torch.no_grad()
def stock_output(part: FinishedPart, weights: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """What diffusers' own float network gives with those weights; every name must be there, and no other."""
    network = type(part.module).from_config(part.module.config)  # type: ignore[attr-defined]
    network.load_state_dict({name: tensor.float() for name, tensor in weights.items()}, strict=True)
    return output(network)


def output(transformer: torch.nn.Module) -> torch.Tensor:
    """Of one call with made-up inputs."""
    random = torch.Generator().manual_seed(0)
    found: torch.Tensor = transformer(
        hidden_states=torch.randn(1, 36, 2, 4, 4, generator=random),
        timestep=torch.tensor([500]),
        encoder_hidden_states=torch.randn(1, 512, 32, generator=random),
        encoder_hidden_states_image=torch.randn(1, 17, 32, generator=random),
        return_dict=False,
    )[0]
    return found


Call = tuple[tuple[Any, ...], dict[str, Any]]  # of a network


@torch.no_grad()
def finished_family(
    folder: Path, family: str, exporter: Exporter, grids: LayerSpec, recipe: tuple[Algorithm, ...] = SMOOTH
) -> tuple[FinishedPart, Network, Call]:
    """The transformer of any family with one network after calibration, and the first call of it."""
    save, sampling = TINY[family]
    save(folder / "model")
    save_samples(folder / "samples", 1)
    adapter = adapters()[family]()
    pipeline = adapter.load(folder / "model", "float32", "cpu")
    (whole,) = adapter.parts(pipeline)
    calls: list[Call] = []
    hook = whole.module.register_forward_pre_hook(
        lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True
    )
    network = prepare(whole, Policy(grids), [exporter], recipe, original=adapter.original(whole.module))
    (sample,) = read_samples(folder / "samples", needs_image=False)
    calibrate(LoadedModel(adapter, pipeline), [network], CalibrationPlan([(0, sample, sampling)], 64))
    hook.remove()
    part = FinishedPart(
        "transformer", whole.module, network.layers, adapter.renames, folder / "model", {"producer": "test"}, {},
        original=network.original,
    )  # fmt: skip
    return part, network, calls[0]


@torch.no_grad()
def judged_output(network: Network, call: Call) -> torch.Tensor:
    """What the network gives in quantized mode."""
    args, kwargs = call
    with in_mode(network.layers.values(), "quantized"):
        found: torch.Tensor = network.part.module(*args, **kwargs)[0]
    return found


def with_float(policy: Policy, *globs: str) -> Policy:
    """The policy, but for layers that stay float."""
    return replace(policy, ignored_layers=globs)
