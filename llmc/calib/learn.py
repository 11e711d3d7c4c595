"""A rounded block learned from its output error: Adam over some of its calls at a time, judged by calls kept apart."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from llmc import distributed
from llmc.calib.block import BlockStep
from llmc.calib.held_out import Apart
from llmc.calib.layer_errors import layer_errors
from llmc.calib.rerun import Rerun
from llmc.layers.learned import Learned, Rates, learning
from llmc.layers.linear import LayerState, QuantLinear, in_mode

BETAS = (0.9, 0.99)


@dataclass(frozen=True)
class Schedule:
    """How long is learned, and on how much at a time."""

    steps: int
    warm_up: int  # steps in which the rates rise to their height; from there on they fall to nothing
    calls: int
    tokens: int
    seed: int

    def share_of_rate(self, step: int) -> float:
        """How much of the full rate a step goes by."""
        rising = (step + 1) / self.warm_up
        falling = (self.steps - step) / max(1, self.steps - self.warm_up)
        return min(1.0, rising, falling)


def learn(block: BlockStep, rates: Rates, schedule: Schedule) -> bool:
    """Learn what the block's layers are rounded to; False, and nothing has changed, where its error on the calls kept
    apart is not less, or none can be kept apart: a single sample does not tell how others fare."""
    rerun = block.rerun
    assert rerun is not None
    apart = Apart.of(block.sample_numbers).samples
    places = {call.number: place for place, call in enumerate(rerun.headers)}
    own_used = [call.number for call in rerun.headers if call.sample not in apart]
    used = sorted(number for numbers in distributed.gather(own_used) for number in numbers)
    kept_apart = [place for place, call in enumerate(rerun.headers) if call.sample in apart]
    layers = [layer for layer in block.linears.values() if layer.state.rounded is not None]
    if not apart or not used or not layers:
        return False
    before = {layer: layer.state for layer in layers}
    with _weights_at_rest(rerun.network), in_mode(block.linears.values(), "quantized"):
        error = _mean_error(rerun, kept_apart)
        learned = [Learned(layer) for layer in layers]
        with torch.enable_grad(), learning(learned):
            _descend(learned, rerun, _batches(used, rerun, schedule), places, rates, schedule)
        for each in learned:
            each.result()
        _take_back_what_lost(block, before)
        better = _mean_error(rerun, kept_apart) < error
    if not better:
        for layer, state in before.items():
            layer.state = state
    return better


def _take_back_what_lost(block: BlockStep, before: Mapping[QuantLinear, LayerState]) -> None:
    """A layer that gave up its own output for that of the block is as it was, if rounding to nearest does better now:
    on other calls there may be nothing to give it up for."""
    errors = layer_errors(block)
    for name, layer in block.linears.items():
        error = errors.get(name)
        if error is None or error.recipe is None or error.baseline is None or layer not in before:
            continue
        if error.recipe > error.baseline:
            layer.state = before[layer]


def _descend(
    learned: Sequence[Learned],
    rerun: Rerun,
    batches: Iterator[list[int]],
    places: dict[int, int],
    rates: Rates,
    schedule: Schedule,
) -> None:
    """Every rank goes the same way: gradients of the calls that each has are added up."""
    optimizer = torch.optim.Adam([group for each in learned for group in each.groups(rates)], betas=BETAS)
    full = [group["lr"] for group in optimizer.param_groups]
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for step, numbers in zip(range(schedule.steps), batches, strict=False):
        optimizer.zero_grad(set_to_none=False)
        for number in numbers:
            if number in places:
                (rerun.error(places[number]) / len(numbers)).backward()  # type: ignore[no-untyped-call]
        for parameter in parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            distributed.reduce(parameter.grad, "sum")
        for group, rate in zip(optimizer.param_groups, full, strict=True):
            group["lr"] = rate * schedule.share_of_rate(step)
        optimizer.step()
        for each in learned:
            each.stay_near()


def _batches(used: Sequence[int], rerun: Rerun, schedule: Schedule) -> Iterator[list[int]]:
    """Numbers of calls, all of them once in an order drawn at random, and then in another."""
    tokens = max(distributed.gather(rerun.tokens(0) if rerun.headers else 1))
    count = max(1, min(schedule.calls, schedule.tokens // tokens, len(used)))
    generator = torch.Generator().manual_seed(schedule.seed)
    waiting: list[int] = []
    while True:
        if len(waiting) < count:
            waiting += [used[index] for index in torch.randperm(len(used), generator=generator).tolist()]
        yield waiting[:count]
        waiting = waiting[count:]


def _mean_error(rerun: Rerun, places: Sequence[int]) -> float:
    """Over calls of all ranks."""
    total = torch.zeros(2, dtype=torch.float64)
    for place in places:
        total += torch.tensor([rerun.error(place).item(), 1.0], dtype=torch.float64)
    total = distributed.reduce(total.to(rerun.device, torch.float32), "sum").cpu()
    return float(total[0] / total[1])


@contextmanager
def _weights_at_rest(network: nn.Module) -> Iterator[None]:
    """No gradients of what is not learned: they would take as much room as the network."""
    moving = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in moving:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in moving:
            parameter.requires_grad_(True)
