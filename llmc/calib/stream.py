"""Run a network one block at a time over recorded calls: the network's own forward prepares what the block reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import nn

from llmc.calib.block import BlockStep, Observation, inputs_of
from llmc.calib.store import Call, CallStore, map_tree
from llmc.errors import AdapterError
from llmc.layers.linear import in_mode
from llmc.models.base import Part

# of one call: the output of the last finished block of each class, or of each block whose class is lasting
Outputs = dict[type | int, Any]


class _Halt(BaseException):
    """Ends a forward once the block of interest has run; private, so that no error can be taken for it."""

    def __init__(self, output: Any) -> None:
        self.output = output


@contextmanager
def _forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    module.forward = forward
    try:
        yield
    finally:
        del module.forward


def run_to_block(part: Part, index: int, call: Call, outputs: Outputs) -> Any:
    """The output of block `index`: earlier blocks give what they gave before, `index` runs, and the forward stops."""
    name, target = part.blocks[index]
    run, ran = target.forward, []

    def replay(position: int) -> Callable[..., Any]:
        def forward(*args: Any, **kwargs: Any) -> Any:
            ran.append(position)
            return outputs.get(_key(part, position))

        return forward

    def run_then_halt(*args: Any, **kwargs: Any) -> Any:
        raise _Halt(run(*args, **kwargs))

    with ExitStack() as stack:
        for position, (_, block) in enumerate(part.blocks[:index]):
            stack.enter_context(_forward(block, replay(position)))
        stack.enter_context(_forward(target, run_then_halt))
        try:
            part.module(*call.args, **call.kwargs)
        except _Halt as halt:
            if ran != list(range(index)):
                order = [part.blocks[position][0] for position in ran]
                raise AdapterError(
                    f"{part.name} ran {order} before {name}; the adapter declares the order "
                    f"{[n for n, _ in part.blocks[:index]]}: list the blocks as the network runs them"
                ) from None
            return halt.output
    raise AdapterError(f"{part.name} never ran {name}: the adapter must list only blocks that every call runs")


@torch.no_grad()
def stream_blocks(
    part: Part,
    blocks: list[BlockStep],
    store: CallStore,
    needs: frozenset[str],
    max_rows: int,
    device: torch.device,
    propagate: Literal["float", "quantized"] = "float",
) -> Iterator[BlockStep]:
    """Yield each block with its statistics. One pass both observes a block and, for `float`, makes the next one's
    inputs; for `quantized` the finished block runs once more, so that later blocks see the errors of earlier ones.
    The statistic `cross` relates float to quantized inputs, and so runs the float block beside."""
    streams: list[Outputs] = [{} for _ in range(len(store))]
    float_streams: list[Outputs] = [{} for _ in range(len(store))] if "cross" in needs else []

    def run(index: int, call: Call, stream: Outputs) -> tuple[Any, dict[str, torch.Tensor]]:
        with inputs_of(blocks[index].groups) as inputs:
            output = run_to_block(part, index, call, _on(device, stream))
        return _to_host(output), inputs

    def advance(streams: list[Outputs], outputs: list[Any], index: int) -> None:
        for stream, output in zip(streams, outputs, strict=True):
            stream[_key(part, index)] = output

    for index, block in enumerate(blocks):
        observation = Observation(block.groups, needs, len(store), max_rows)
        outputs, float_outputs = [], []
        for number, call in enumerate(store.calls(device)):
            output, inputs = run(index, call, streams[number])
            outputs.append(output)
            reference = inputs
            if float_streams:
                output, reference = run(index, call, float_streams[number])
                float_outputs.append(output)
            observation.update(inputs, reference)
        observation.attach()
        yield block
        if propagate == "quantized":
            with in_mode(block.linears.values(), "quantized"):
                outputs = [run(index, call, stream)[0]
                           for call, stream in zip(store.calls(device), streams, strict=True)]  # fmt: skip
        advance(streams, outputs, index)
        advance(float_streams, float_outputs, index)


def _key(part: Part, index: int) -> type | int:
    block = type(part.blocks[index][1])
    return index if block.__name__ in part.lasting else block


def _to_host(output: Any) -> Any:
    return map_tree(output, lambda tensor: tensor.cpu(), torch.Tensor)


def _on(device: torch.device, outputs: Outputs) -> Outputs:
    return {
        block: map_tree(output, lambda tensor: tensor.to(device), torch.Tensor) for block, output in outputs.items()
    }
