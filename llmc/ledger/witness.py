"""A witness of each network: one small call, what the float network makes of it, and what was judged.

Whoever has an export builds the network from its files alone, and holds what it gives against this. The call has the
tensors that the family says its network is given, at the smallest size that it takes, with values drawn from a fixed
seed: no pipeline is needed, and three forwards of a few tokens are all that it costs, of a large model too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmc.calib.store import map_tree, write_tensors
from llmc.calib.teacher import first_tensor
from llmc.engine.network import Network
from llmc.layers.linear import in_mode
from llmc.layers.steps import at_step
from llmc.models.base import ModelAdapter
from llmc.models.index import PipelineIndex
from llmc.models.samples import Sampling

SIDES, FRAMES = (64, 48, 32, 16), (5, 1, 9, 17, 33)  # the first that a family takes
SEED = 20
# of each value that goes in: enough that some codes of every layer's input change, which is all that machines differ in
# that add up in another order; in 16 bits as much as rounding does
NUDGE = 2.0**-14
ROOM = 4.0  # they differ in every sum of a network, and the nudge moves its inputs alone


@dataclass(frozen=True)
class Witness:
    """A call and what was made of it; `limit` is how far, of the judged output, another computation of it may be."""

    inputs: Mapping[str, Tensor]  # by name, those in nested tuples by name and place
    float_output: Tensor
    judged_output: Tensor
    step: int
    limit: float

    def save(self, file: Path) -> None:
        """One file of tensors."""
        tensors = {f"inputs.{name}": tensor for name, tensor in self.inputs.items()}
        tensors |= {"float": self.float_output, "judged": self.judged_output}
        write_tensors(file, {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


@torch.no_grad()
def make_witness(adapter: ModelAdapter, index: PipelineIndex, network: Network) -> Witness | str:
    """The witness of a network, or why it can have none."""
    module, sampling = network.part.module, _small(adapter, index)
    if sampling is None:
        return f"{adapter.name} takes no size that is small enough for a witness"
    said = adapter.inputs(index, module, sampling) if network.part.is_denoiser else {}
    if not said:
        return f"{type(adapter).__name__} does not say what a call of {network.part.name} is given"
    generator = torch.Generator().manual_seed(SEED)
    device, dtype = next(module.parameters()).device, _dtype(module)
    call = {name: _filled(name, value, generator, dtype, device) for name, value in said.items()}
    nudged = {name: _nudged(name, value, generator) for name, value in call.items()}
    step = _step(network)
    with at_step(step):
        with in_mode(network.switched, "float"):
            float_output = _output(network, call)
        with in_mode(network.switched, "quantized"):
            judged, moved = _output(network, call), _output(network, nudged)
    if not (judged.isfinite().all() and float_output.isfinite().all()):
        return f"{network.part.name} gives NaN or infinity on a call that is drawn at random"
    limit = ROOM * float((moved - judged).norm() / judged.norm().clamp(min=1e-30))
    return Witness(dict(leaves(call)), float_output, judged, step, limit)


def _dtype(module: torch.nn.Module) -> torch.dtype:
    """In which a pipeline hands over tensors; some of a network's own may be kept more exact."""
    found = getattr(module, "dtype", None)
    return found if isinstance(found, torch.dtype) else next(module.parameters()).dtype


def leaves(call: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    """The tensors of a call, those within tuples by their places."""
    found: list[tuple[str, Tensor]] = []
    for name, value in call.items():
        if isinstance(value, Tensor):
            found.append((name, value))
        elif isinstance(value, tuple | list):
            found += leaves({f"{name}.{place}": inner for place, inner in enumerate(value)})
    return found


def _small(adapter: ModelAdapter, index: PipelineIndex) -> Sampling | None:
    reach = adapter.reach(index)
    for side in SIDES:
        for frames in (1,) if adapter.makes_images else FRAMES:
            fits = {"target_height": side, "target_width": side, "num_frames": frames}
            too_large = any(fits[key] > reach.get(key, fits[key]) for key in fits)
            if not too_large and not adapter.check_sampling(side, side, frames):
                return Sampling(height=side, width=side, num_frames=frames, steps=1, guidance_scale=1.0, seed=SEED)
    return None


def _filled(name: str, value: Any, generator: torch.Generator, dtype: torch.dtype, device: torch.device) -> Any:
    """Values for what a call is given: a mask lets all through, and a time is one that either way of counting has."""

    def fill(like: Tensor) -> Tensor:
        if "mask" in name:
            return torch.ones(like.shape, dtype=like.dtype, device=device)
        if not like.is_floating_point():
            return torch.full(like.shape, 500 if name == "timestep" else 0, dtype=like.dtype, device=device)
        if name == "timestep":
            return torch.full(like.shape, 0.5, device=device)
        if name.endswith("_ids"):
            return torch.arange(like.shape[0], dtype=like.dtype)[:, None].expand(like.shape).to(device)
        return torch.randn(like.shape, generator=generator).to(device, dtype)

    return map_tree(value, fill, Tensor)


def _nudged(name: str, value: Any, generator: torch.Generator) -> Any:
    def nudge(x: Tensor) -> Tensor:
        if not x.is_floating_point() or name == "timestep" or name.endswith(("_ids", "mask")):
            return x
        signs = torch.randint(0, 2, x.shape, generator=generator).mul_(2).sub_(1).to(x.device)
        return (x.float() * (1 + max(NUDGE, torch.finfo(x.dtype).eps) * signs)).to(x.dtype)

    return map_tree(value, nudge, Tensor)


def _step(network: Network) -> int:
    """The last step of a schedule that layers have grids for, which is static; else any."""
    counts = [len(layer.state.steps.scale) for layer in network.layers.values() if layer.state.steps is not None]
    return max(counts, default=1) - 1


def _output(network: Network, call: Mapping[str, Any]) -> Tensor:
    output = network.part.module(**call, return_dict=False)
    return first_tensor(network.part.read(output)).float().cpu()
