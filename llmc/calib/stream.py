"""Run a network one block at a time over recorded calls: the network's own forward prepares what the block reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from llmc.calib.block import BlockStep, Group
from llmc.calib.observation import Observation, inputs_of
from llmc.calib.store import Call, CallStore, map_tree
from llmc.errors import AdapterError
from llmc.layers.linear import QuantLinear, in_mode
from llmc.layers.steps import at_step
from llmc.models.parts import Part

# of one call: the output of the last finished block of each class, or of each block whose class is lasting
Outputs = dict[type | int, Any]


SECOND_LOOK = frozenset(
    {"gram", "cross", "gram64", "cross64", "range", "step_range"}
)  # what rounding methods need; rows stay those of the first look


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
            with at_step(call.step):
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


class BlockStream:
    """The blocks of a part over recorded calls. One pass both observes a block and, for `float`, makes the next one's
    inputs; for `quantized` the finished block runs once more, so that later blocks see the errors of earlier ones.

    `cross` relates float to quantized inputs, and so runs the float blocks beside. With `within` a block
    comes with its stages, and observes each again on what its own linears give once they are rounded. What the first
    block reads is float in any case: who observed it during the recording says that it is known.
    """

    def __init__(
        self,
        part: Part,
        blocks: list[BlockStep],
        store: CallStore,
        needs: frozenset[str],
        max_rows: int,
        device: torch.device,
        propagate: Literal["float", "quantized"] = "float",
        within: bool = False,
        first_is_known: bool = False,
    ) -> None:
        self.part, self.blocks, self.store, self.device = part, blocks, store, device
        self.needs, self.max_rows, self.propagate, self.within = needs, max_rows, propagate, within
        self.first_is_known = first_is_known
        self.streams: list[Outputs] = [{} for _ in range(len(store))]
        self.float_streams: list[Outputs] = [{} for _ in range(len(store))] if {"cross", "cross64"} & needs else []

    @torch.no_grad()
    def __iter__(self) -> Iterator[BlockStep]:
        for index, block in enumerate(self.blocks):
            # what the float block makes of quantized inputs is nobody's input
            key, halt = _key(self.part, index), self.propagate == "quantized"
            known = index == 0 and self.first_is_known
            float_outputs = [] if known else self._observe(index, block.groups, self.needs, halt)
            if self.within:
                block.stages = self._stages(index)
                block.observe_again = partial(self._observe_again, index)
            yield block
            block.observe_again = None
            if index + 1 < len(self.blocks):  # nobody reads what the last one gives
                if self.propagate == "quantized":
                    with quantized(block.linears.values()):
                        for call, stream in zip(self.store.calls(self.device), self.streams, strict=True):
                            stream[key] = self._run(index, call, stream)[0]
                for stream, output in zip(self.float_streams, float_outputs, strict=True):
                    stream[key] = output
            block.put_away()

    def _observe(
        self, index: int, groups: Sequence[Group], needs: frozenset[str], halt: bool, again: bool = False
    ) -> list[Any]:
        """What these groups read over all calls. The streams move on to what the block makes of them, unless it halts;
        what it makes of the float streams, which later looks at it still read, is returned."""
        observation = Observation(groups, needs, len(self.store), self.max_rows)
        float_outputs = []
        for number, (call, stream) in enumerate(zip(self.store.calls(self.device), self.streams, strict=True)):
            output, inputs = self._run(index, call, stream, groups, halt)
            if not halt:
                stream[_key(self.part, index)] = output
            reference = inputs
            if self.float_streams:
                with in_mode(self.blocks[index].linears.values(), "float"):
                    output, reference = self._run(index, call, self.float_streams[number], groups, again)
                float_outputs.append(output)
            with at_step(call.step):
                observation.update(inputs, reference)
        observation.attach()
        return float_outputs

    @torch.no_grad()
    def _observe_again(self, index: int, groups: Sequence[Group]) -> None:
        layers = self.blocks[index].linears.values()
        rounded = [layer for layer in layers if layer.state.rounded is not None]
        with in_mode(layers, "transformed"), quantized(rounded):
            self._observe(index, groups, self.needs & SECOND_LOOK, halt=True, again=True)

    def _stages(self, index: int) -> list[list[Group]]:
        """What a group reads depends on linears before it if it changes when these give nothing."""
        block, call, stream = self.blocks[index], next(iter(self.store.calls(self.device))), self.streams[0]
        ran = self._run(index, call, stream, block.groups)[1]
        with ExitStack() as hooks:
            for layer in block.linears.values():
                hooks.callback(layer.register_forward_hook(lambda *io: torch.zeros_like(io[-1])).remove)
            without = self._run(index, call, stream, block.groups)[1]
        by_name = {group.name: group for group in block.groups}
        free = [by_name[name] for name in ran if torch.equal(ran[name], without[name])]
        return [free, *([by_name[name]] for name in ran if by_name[name] not in free)]

    def _run(
        self, index: int, call: Call, stream: Outputs, groups: Sequence[Group] = (), halt: bool = False
    ) -> tuple[Any, dict[str, torch.Tensor]]:
        """The block's output in one call and what its groups read; `halt` leaves as soon as all of them have."""

        def leave(*_: Any) -> None:
            if len(inputs) == len(groups):
                raise _Halt(None)

        with inputs_of(groups) as inputs, ExitStack() as hooks:
            for group in groups if halt else ():
                hooks.callback(group.linears[0].register_forward_pre_hook(leave).remove)
            output = run_to_block(self.part, index, call, _on(self.device, stream))
        return _to_host(output), inputs


@contextmanager
def quantized(layers: Iterable[QuantLinear]) -> Iterator[None]:
    """Run layers as they will be; on a CPU products of int8 codes give the same sums in less time."""
    layers = list(layers)
    quick = [layer for layer in layers if layer.weight.is_cpu and layer.multiplies_int8]
    with in_mode(layers, "quantized"), in_mode(quick, "real"):
        yield


def _key(part: Part, index: int) -> type | int:
    block = type(part.blocks[index][1])
    return index if block.__name__ in part.lasting else block


def _to_host(output: Any) -> Any:
    return map_tree(output, lambda tensor: tensor.cpu(), torch.Tensor)


def _on(device: torch.device, outputs: Outputs) -> Outputs:
    return {
        block: map_tree(output, lambda tensor: tensor.to(device), torch.Tensor) for block, output in outputs.items()
    }
