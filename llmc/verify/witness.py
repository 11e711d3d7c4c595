"""The network that a file holds, built from the file alone and run on the call that the run recorded.

What a linear computes is put together once more from what was read: its weight as it is decoded, its input multiplied
and rounded as the runtime does it. How far its output may be from the judged one was measured by the run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from llmc.errors import ExportError, LlmcError
from llmc.layers.steps import at_step
from llmc.numerics.hadamard import times_blocks
from llmc.numerics.quantize import StaticGrid, fake_quantize
from llmc.numerics.spec import TensorSpec
from llmc.verify.blueprint import Blueprint, draw
from llmc.verify.files import Entry
from llmc.verify.judged import JudgedPart, Witness
from llmc.verify.names import Linear, divided
from llmc.verify.network import Network
from llmc.verify.value_rules import held
from llmc.verify.verdict import Checked, Finding, NotChecked


class RuntimeLinear(nn.Module):
    """A linear of the float network as the runtime computes it from the file."""

    def __init__(self, weight: Tensor, bias: Tensor | None, act: TensorSpec | None, left: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.stored, self.added, self.act, self.left = weight, bias, act, left

    @property
    def weight(self) -> Tensor:
        """Networks look at its type."""
        return self.stored

    def forward(self, x: Tensor) -> Tensor:
        if (multiplier := self.left.get("multiplier")) is not None:
            x = (x * multiplier.float()).to(x.dtype)
        if (rotation := self.left.get("rotation")) is not None:
            x = times_blocks(x, rotation)
        rows = fake_quantize(x.reshape(-1, x.shape[-1]), self.act, *self._grid())
        y = linear(rows, self.stored).to(x.dtype)
        y = y if self.added is None else y + self.added.to(y.dtype)
        return y.reshape(*x.shape[:-1], -1)

    def _grid(self) -> StaticGrid | tuple[()]:
        if self.act is None or self.act.dynamic:
            return ()
        if (whole := self.left.get("act_whole")) is not None:
            return None, None, whole.float().reshape(())
        scale, zero = (self.left.get(f"act_{leaf}", self.left.get(f"steps_{leaf}")) for leaf in ("scale", "zero"))
        if scale is None:
            raise ExportError("an input of a calibrated grid has no scale in the file; export again")
        # of grids for every step the last one: it is static in every schedule that has one
        last = scale.float().flatten()[-1:].reshape(1, 1)
        return last, None if zero is None or self.act.symmetric else zero.float().flatten()[-1:].reshape(1, 1)


def witness_agrees(network: Network) -> Finding:
    """Built from the file alone, the network makes of the run's call what was judged, as near as the run itself is."""
    judged = network.sources.judged(network.part)
    if not isinstance(judged, JudgedPart):
        return judged if isinstance(judged, NotChecked) else Checked([judged])
    witness = judged.witness()
    if isinstance(witness, str):
        return NotChecked(f"there is no witness: {witness}")
    own = network.own_config()
    drawn = draw({**judged.config, **(own or {})}, judged.family)
    if isinstance(drawn, str):
        return Checked([f"no network can be built of it: {drawn}"])
    try:
        output = _output(network, drawn, judged, witness)
    except (LlmcError, RuntimeError, TypeError, ValueError) as error:
        return Checked([f"the network that the file describes does not run: {str(error).splitlines()[0]}"])
    return _compared(output, witness)


def _compared(output: Tensor, witness: Witness) -> Finding:
    wanted = witness.judged_output
    if output.shape != wanted.shape:
        return Checked([f"the network gives {list(output.shape)}; judged was {list(wanted.shape)}"])
    size = wanted.norm().clamp(min=1e-30)
    distance, of_float = (float((other - wanted).norm() / size) for other in (output, witness.float_output))
    note = (
        f"{distance:.2g} away from what was judged, of {witness.limit:.2g} allowed; the float network is {of_float:.2g}"
    )
    if not distance <= witness.limit:
        return Checked([f"its output is {note}"])
    return Checked(note=note)


@torch.no_grad()
def _output(network: Network, drawn: Blueprint, judged: JudgedPart, witness: Witness) -> Tensor:
    module = drawn.empty()
    values, left = _values(network)
    built = _linears(network, judged, values, left)
    for name, replacement in built.items():
        parent, _, leaf = name.rpartition(".")
        setattr(module.get_submodule(parent), leaf, replacement)
    for name in module.state_dict():
        if name not in values:
            raise ExportError(f"{name} is not in the file, or has another shape; export again")
        _fill(module, name, values[name].to(judged.dtype(name)))
    with network.attending(module), at_step(witness.step):
        output: Any = module(**witness.call, return_dict=False)
    while not isinstance(output, Tensor):
        output = next(item for item in (output.values() if isinstance(output, dict) else output) if item is not None)
    return output.float()


def _values(network: Network) -> tuple[dict[str, Tensor], dict[str, dict[str, Tensor]]]:
    """Every tensor of the file by its name in the float network, and what is left on each linear."""
    values: dict[str, Tensor] = {}
    left: dict[str, dict[str, Tensor]] = {}
    modules = {module for each in network.linears for module in each.modules}
    for name, _, value in held(network):
        module, _, leaf = name.rpartition(".")
        if module in modules and leaf not in ("weight", "bias"):
            left.setdefault(module, {})[leaf] = value
        else:
            values[name] = value
    return values, left


def _linears(
    network: Network, judged: JudgedPart, values: Mapping[str, Tensor], left: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, nn.Module]:
    built: dict[str, nn.Module] = {}
    for each, entries in network.sound():
        act = network.act(each)
        for module, weight in divided(each, _weight(network, each, entries)):
            built[module] = RuntimeLinear(weight, values.get(f"{module}.bias"), act, left.get(module, {}))
    return built


def _weight(network: Network, each: Linear, entries: Mapping[str, Entry]) -> Tensor:
    return next(network.readings(each, entries)).weight


def _fill(module: nn.Module, name: str, value: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    if leaf in owner._buffers:
        owner._buffers[leaf] = value
    else:
        owner._parameters[leaf] = nn.Parameter(value, requires_grad=False)
