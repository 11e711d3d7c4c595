"""Run a network one block at a time over recorded calls: the network's own forward prepares what the block reads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmc import distributed
from llmc.calib.block import BlockStep
from llmc.calib.group import Group
from llmc.calib.held_out import APART, keeps_apart
from llmc.calib.observation import Observation, See, reading
from llmc.calib.rerun import Rerun
from llmc.calib.running import at_call
from llmc.calib.store import Call, CallStore, map_tree
from llmc.calib.streams import Outputs, Room, Streams
from llmc.errors import AdapterError
from llmc.layers.linear import QuantLinear, in_mode
from llmc.layers.steps import at_step
from llmc.models.parts import Part

# what rounding methods need; rows stay those of the first look
MOMENTS = frozenset({"gram", "cross", "gram64", "cross64"})
SECOND_LOOK = MOMENTS | {moment + APART for moment in MOMENTS} | {"range", "step_range"}
Look = tuple[Sequence[Group], frozenset[str]]  # groups, and what is to be observed of them


class _Halt(BaseException):
    """Ends a forward once the block of interest has run; private, so that no error can be taken for it."""

    def __init__(self, output: Any) -> None:
        self.output = output


@contextmanager
def _forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    own = module.__dict__.get("forward")  # of a block that is an attention, what quantizes that
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own


def run_to_block(part: Part, index: int, call: Call, outputs: Outputs, live: int = 0) -> Any:
    """The output of block `index`: earlier blocks give what they gave before, but the last `live` of them run and leave
    in `outputs` what they give; `index` runs, and the forward stops."""
    name, target = part.blocks[index]
    run, ran = target.forward, []

    def replay(position: int, block: nn.Module) -> Callable[..., Any]:
        key, run = key_of(part, position), block.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            ran.append(position)
            if position >= index - live:
                outputs[key] = run(*args, **kwargs)
            return outputs.get(key)

        return forward

    def run_then_halt(*args: Any, **kwargs: Any) -> Any:
        raise _Halt(run(*args, **kwargs))

    with ExitStack() as stack:
        for position, (_, block) in enumerate(part.blocks[:index]):
            stack.enter_context(_forward(block, replay(position, block)))
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


def move_on(part: Part, index: int, call: Call, stream: Outputs, device: torch.device) -> Any:
    """The output of block `index` in a call, of which the stream has all earlier ones, and then this one too."""
    output = run_to_block(part, index, call, _on(device, stream))
    stream[key_of(part, index)] = _to_host(output)
    return output


def output_of(part: Part, call: Call, stream: Outputs, device: torch.device) -> Any:
    """What the network makes of a call in which its blocks give what the stream has."""
    outputs = _on(device, stream)
    with ExitStack() as stack:
        for index, (_, block) in enumerate(part.blocks):
            stack.enter_context(_forward(block, partial(_given, outputs[key_of(part, index)])))
        with at_step(call.step):
            return part.module(*call.args, **call.kwargs)


def _given(output: Any, *args: Any, **kwargs: Any) -> Any:
    return output


@dataclass(frozen=True)
class Observing:
    """What is observed of each block, and on which inputs.

    With `propagate` float one pass both observes a block and makes the next one's inputs; with quantized one pass runs
    the finished block once more and observes the next one on what it gives, so that later blocks see the errors of
    earlier ones. With `within` a block comes with its stages, and observes each but the first again on what its own
    linears give once they are rounded: what is taken then (`SECOND_LOOK`) need not be taken before, unless it is one of
    the `early` statistics.
    """

    needs: frozenset[str]
    max_rows: int
    propagate: Literal["float", "quantized"] = "float"
    within: bool = False
    early: frozenset[str] = frozenset()
    outputs: bool = False  # whether the float block runs beside, on float inputs: methods learn from what it gives
    first_is_known: bool = False  # what the first block reads is float, and was observed during the recording


class BlockStream:
    """The blocks of a part over recorded calls.

    A need of `cross` relates float to quantized inputs, and so runs the float blocks beside. The first `finished`
    blocks are done, and only run. Of several ranks each has calls of its own, or none. What blocks give in each call is
    kept in a `room`, that of float blocks beside it.
    """

    def __init__(
        self,
        part: Part,
        blocks: list[BlockStep],
        store: CallStore,
        how: Observing,
        finished: int = 0,
        room: Room | None = None,
        on_call: Callable[[BlockStep, float], None] = lambda block, seen: None,
    ) -> None:
        self.on_call = on_call  # told in which share of the calls a block was seen
        self.part, self.blocks, self.store, self.how, self.finished = part, blocks, store, how, finished
        self.device = next(part.module.parameters()).device
        store.number_over_ranks()
        own = {call.sample for call in store.headers()}
        self.samples = frozenset[int]().union(*distributed.gather(own))
        for block in blocks:
            block.samples = len(self.samples) if keeps_apart(how.needs) else 0
            block.sample_numbers = self.samples
        room = Room() if room is None else room
        self.streams = Streams(len(store), room)
        beside = how.outputs or {"cross", "cross64"} & how.needs
        self.float_streams = Streams(len(store), room) if beside else None
        self.float_outputs = Streams(len(store), room)  # of the block at work: it may be observed again

    @torch.no_grad()
    def __iter__(self) -> Iterator[BlockStep]:
        for index, block in enumerate(self.blocks[self.finished :], self.finished):
            starts = index == self.finished  # then no stream has been through any block yet
            before = self.blocks[0 if starts else index - 1 : index]
            ahead = before if starts or self.how.propagate == "quantized" else []
            looks: list[Look] = [(block.groups, self.how.needs)]
            if self.how.within:
                first, *later = block.stages = self._stages(index, ahead)
                looks = [(first, self.how.needs)]
                looks += [(groups, self.how.needs - SECOND_LOOK | self.how.early) for groups in later]
                block.observe_again = partial(self._observe_again, index)
            if index or not self.how.first_is_known:
                self._observe(index, looks, ahead, len(ahead) if starts else 0)
            for finished in before:
                finished.put_away()
            block.rerun = self._rerun(index) if self.how.outputs else None
            yield block
            block.observe_again = block.rerun = None
            if self.float_streams is not None:
                self.float_streams.take(self.float_outputs)
        for last in self.blocks[-1:]:
            last.put_away()

    def _observe(
        self,
        index: int,
        looks: Sequence[Look],
        ahead: Sequence[BlockStep] = (),
        float_ahead: int = 0,
        again: bool = False,
    ) -> None:
        """What groups read over all calls. The streams first move on to what the blocks just `ahead` of this one make
        of them, the float streams beside to what so many float blocks make; float ones then to what this block makes
        of them. What it makes of the float streams beside waits, since later looks at it still read these."""
        # what a float block makes of quantized inputs is nobody's input
        halt = again or self.how.propagate == "quantized"
        groups = [group for some, _ in looks for group in some]
        observations = [
            Observation(some, needs, self.store.total, self.how.max_rows, samples=self.samples) for some, needs in looks
        ]
        seeing = {group.name: observation.see for observation in observations for group in observation.groups}
        key = key_of(self.part, index)
        for number, call in enumerate(self.store.calls(self.device)):
            inputs: dict[str, Tensor] = {}

            def see_alone(name: str, x: Tensor) -> None:
                seeing[name](name, x)

            def see_beside(name: str, reference: Tensor, inputs: dict[str, Tensor] = inputs) -> None:
                seeing[name](name, inputs.pop(name), reference)

            see = see_alone if self.float_streams is None else inputs.__setitem__
            with self._as_propagated(ahead), at_call(call):
                moved, output = self._run(index, call, self.streams.get(number), groups, see, halt, len(ahead))
            self.streams.put(number, moved if halt else moved | {key: output})
            if self.float_streams is not None:
                with in_mode(self.blocks[index].linears.values(), "float"), at_call(call):
                    float_stream = self.float_streams.get(number)
                    moved, output = self._run(index, call, float_stream, groups, see_beside, again, float_ahead)
                self.float_streams.put(number, moved)
                self.float_outputs.put(number, {} if again else {key: output})
            if not again:
                self.on_call(self.blocks[index], (number + 1) / len(self.store))
        for observation in observations:
            observation.attach()

    def _rerun(self, index: int) -> Rerun:
        """A block over its calls, as it is then."""
        key = key_of(self.part, index)

        def run(number: int, call: Call) -> Any:
            return run_to_block(self.part, index, call, _on(self.device, self.streams.get(number)))

        return Rerun(self.part.module, self.store, run, lambda number: self.float_outputs.get(number)[key], self.device)

    @torch.no_grad()
    def _observe_again(self, index: int, groups: Sequence[Group]) -> None:
        layers = self.blocks[index].linears.values()
        rounded = [layer for layer in layers if layer.state.rounded is not None]
        for group in groups:
            group.forget(SECOND_LOOK)
        with in_mode(layers, "transformed"), quantized(rounded):
            self._observe(index, [(groups, self.how.needs & SECOND_LOOK)], again=True)

    def _stages(self, index: int, ahead: Sequence[BlockStep]) -> list[list[Group]]:
        """What a group reads depends on linears before it if it changes when these give nothing."""
        found = self._running_order(index, ahead) if len(self.store) else None  # a rank may have no call to tell it by
        stages = next(names for names in distributed.gather(found) if names)
        by_name = {group.name: group for group in self.blocks[index].groups}
        return [[by_name[name] for name in names] for names in stages]

    def _running_order(self, index: int, ahead: Sequence[BlockStep]) -> list[list[str]]:
        """The names of the groups of each stage, told from the first call."""
        block, call, stream = self.blocks[index], next(iter(self.store.calls(self.device))), self.streams.get(0)
        ran: dict[str, Tensor] = {}
        without: dict[str, Tensor] = {}
        with self._as_propagated(ahead):
            moved, _ = self._run(index, call, stream, block.groups, ran.__setitem__, live=len(ahead))
        with ExitStack() as hooks:
            for layer in block.linears.values():
                hooks.callback(layer.register_forward_hook(lambda *io: torch.zeros_like(io[-1])).remove)
            self._run(index, call, stream | moved, block.groups, without.__setitem__)
        free = [name for name in ran if torch.equal(ran[name], without[name])]
        return [free, *([name] for name in ran if name not in free)]

    @contextmanager
    def _as_propagated(self, blocks: Sequence[BlockStep]) -> Iterator[None]:
        """Run blocks as their outputs are to be."""
        done = blocks if self.how.propagate == "quantized" else []
        with quantized(layer for block in done for layer in block.linears.values()):
            yield

    def _run(
        self,
        index: int,
        call: Call,
        stream: Outputs,
        groups: Sequence[Group],
        see: See,
        halt: bool = False,
        live: int = 0,
    ) -> tuple[Outputs, Any]:
        """What the `live` blocks before it and the block itself give in one call, while what its groups read is seen;
        `halt` leaves once all have been."""
        waiting = {group.name for group in groups}

        def see_or_leave(name: str, x: Tensor) -> None:
            see(name, x)
            waiting.discard(name)
            if halt and not waiting:
                raise _Halt(None)

        with reading(groups, see_or_leave):
            outputs = _on(self.device, stream)
            output = run_to_block(self.part, index, call, outputs, live)
        moved = [key_of(self.part, position) for position in range(index - live, index)]
        return {key: _to_host(outputs[key]) for key in moved}, _to_host(output)


@contextmanager
def quantized(layers: Iterable[QuantLinear]) -> Iterator[None]:
    """Run layers as they will be; on a CPU products of int8 codes give the same sums in less time."""
    layers = list(layers)
    quick = [layer for layer in layers if layer.device.type == "cpu" and layer.multiplies_int8]
    with in_mode(layers, "quantized"), in_mode(quick, "real"):
        yield


def key_of(part: Part, index: int) -> type | int:
    """Under which what a block gives is kept in a stream."""
    block = type(part.blocks[index][1])
    return index if block.__name__ in part.lasting else block


def _to_host(output: Any) -> Any:
    return map_tree(output, lambda tensor: tensor.cpu(), Tensor)


def _on(device: torch.device, outputs: Outputs) -> Outputs:
    return {block: map_tree(output, lambda tensor: tensor.to(device), Tensor) for block, output in outputs.items()}
