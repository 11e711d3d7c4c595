"""What the blocks of a network hold while they run and while a recipe works on them, by running that work on shapes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from llmc.calib.observation import Observation, reading
from llmc.calib.running import at_call
from llmc.calib.store import Call, map_tree
from llmc.calib.stream import key_of, output_of, run_to_block
from llmc.calib.teacher import first_tensor, relative_error
from llmc.engine.network import Network, quantize_block
from llmc.estimate.tracing import Traced, traced
from llmc.layers.linear import LayerState, QuantLinear, in_mode
from llmc.numerics.quantize import Quantized

META = torch.device("meta")
SHARED = ("encoder_", "pooled_", "txt_", "img_")  # what inputs of a sample are called that are no step's own


@dataclass(frozen=True)
class BlockWork:
    """Of one block: the most bytes of a device that are held at once, with all that a call is given."""

    runs: int  # as a float block in a forward
    quantized: int  # the same once it is rounded
    observed: int  # while its inputs are observed, with what observers have gathered of it
    gathered: int  # of those, what stays until a recipe works on it
    recipe: int  # while a recipe works on it, with that
    compared: int  # while its output is compared with that of the float block
    rows: int  # bytes of the host that are kept of each call that rows are kept of
    codes: int  # of its rounded weights
    output: int  # of what it gives
    flops: int


@dataclass(frozen=True)
class NetworkWork:
    """Of a whole network."""

    name: str
    lent: list[int]  # bytes of the weights of each block that are lent
    whole: list[int]  # bytes of each block
    stem: int  # bytes of all that is never lent
    blocks: list[BlockWork]
    call: int  # bytes that each call is given
    shared: int  # bytes that several calls of a sample are given
    stream: int  # bytes of what blocks give that are kept of each call
    ends: int  # the most that is held after the last block
    output: int  # bytes of what the network gives
    flops: int  # of a forward

    @property
    def codes(self) -> int:
        return sum(block.codes for block in self.blocks)

    @property
    def all_lent(self) -> int:
        return sum(self.lent)

    def most(self, what: str) -> int:
        """Of any block."""
        return max(int(getattr(block, what)) for block in self.blocks)


@dataclass(frozen=True)
class Looked:
    """How a network is called, and how much of that is looked at."""

    inputs: Mapping[str, Any]  # of a call, on the meta device
    dtype: torch.dtype
    calls: int = 1  # that are observed
    max_rows: int = 1
    fused: bool = True  # whether attention holds no scores


def network_work(network: Network, looked: Looked) -> NetworkWork:
    """Run one block of each class, and what is before and after them."""
    part, found, latest = network.part, dict[str, BlockWork](), dict[str, Any]()
    outputs: dict[type | int, Any] = {}
    with traced(looked.fused) as trace:
        call = Call(0, 0, None, "cond", (), map_tree(looked.inputs, partial(_like, looked.dtype), Tensor))
        given = trace.held
        for position, (_, block) in enumerate(part.blocks):
            kind = _kind(block)
            if kind not in found:
                found[kind], latest[kind] = _block_work(network, position, call, outputs, trace, looked)
            outputs[key_of(part, position)] = latest[kind]
        with _measuring(trace) as ended:
            result = part.read(output_of(part, call, outputs, META))
    blocks = [found[_kind(block)] for _, block in part.blocks]
    shared = sum(_sizes(value) for name, value in call.kwargs.items() if name.startswith(SHARED))
    lent = [sum(map(_bytes, _lent(block))) for _, block in part.blocks]
    return NetworkWork(
        name=part.name,
        lent=lent,
        whole=[sum(map(_bytes, block.parameters())) for _, block in part.blocks],
        stem=sum(map(_bytes, chain(part.module.parameters(), part.module.buffers()))) - sum(lent),
        blocks=blocks,
        call=given - shared,
        shared=shared,
        stream=sum(map(_sizes, outputs.values())),
        ends=ended.peak,
        output=_sizes(result),
        flops=ended.flops + sum(block.flops for block in blocks),
    )


def _block_work(
    network: Network, position: int, call: Call, outputs: dict[type | int, Any], trace: Traced, looked: Looked
) -> tuple[BlockWork, Any]:
    """All that is done with one block, and what it gives."""
    part, block = network.part, network.blocks[position]

    def run() -> Any:
        with at_call(call):
            return run_to_block(part, position, call, outputs)

    with _measuring(trace) as ran:
        output = run()
    before = trace.held
    block.samples = 2  # of several, some are kept apart where a method asks for it
    observation = Observation(block.groups, network.needs, looked.calls, looked.max_rows, samples=(0, 1))
    with _measuring(trace) as observed, reading(block.groups, observation.see):
        run()
    observation.attach()
    gathered, rows = trace.held - before, trace.host
    with _measuring(trace) as worked:
        quantize_block(block, network.recipe)
    with _measuring(trace) as rounded, in_mode(block.linears.values(), "quantized"):
        run()
    with _measuring(trace) as compared:
        relative_error(first_tensor(output), torch.empty_like(first_tensor(output)))
    codes = sum(_codes(layer.state.rounded) for layer in block.linears.values())
    for layer in block.linears.values():
        layer.state = LayerState()
    sizes = _sizes(output)
    found = BlockWork(
        ran.peak, rounded.peak, observed.peak, gathered, worked.peak - before, compared.peak, rows, codes, sizes,
        ran.flops,
    )  # fmt: skip
    return found, output


@dataclass
class _Peak:
    peak: int = 0
    flops: int = 0


@contextmanager
def _measuring(trace: Traced) -> Iterator[_Peak]:
    found = _Peak()
    trace.forget()
    yield found
    found.peak, found.flops = trace.peak, trace.flops


def _kind(block: nn.Module) -> str:
    """Blocks of one class may still differ, as SD3's last one does."""
    return f"{type(block).__name__} {sum(parameter.numel() for parameter in block.parameters())}"


def _lent(block: nn.Module) -> list[Tensor]:
    """What a lender lends of a block: the weights of its linears."""
    return [module.weight for module in block.modules() if isinstance(module, nn.Linear | QuantLinear)]


def _like(dtype: torch.dtype, tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, dtype=dtype if tensor.is_floating_point() else tensor.dtype)


def _codes(rounded: Quantized | None) -> int:
    if rounded is None:
        return 0
    return _bytes(rounded.codes) + _bytes(rounded.scale) + (0 if rounded.zero is None else _bytes(rounded.zero))


def _bytes(tensor: Any) -> int:
    return int(tensor.numel()) * int(tensor.element_size())


def _sizes(value: Any) -> int:
    sizes: list[int] = []
    map_tree(value, lambda tensor: sizes.append(_bytes(tensor)), Tensor)
    return sum(sizes)
