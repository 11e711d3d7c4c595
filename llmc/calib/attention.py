"""What calibration measures of attentions: where each head's values lie, and what quantization does to the output.

It is measured over recorded calls once the linears are done, in the float function but in their new bases: smoothing
that goes into the linear that makes the values changes what attention is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from math import isfinite

import torch
from torch import Tensor

from llmc import distributed
from llmc.calib.finite import Finite
from llmc.calib.running import at_call, running_call
from llmc.calib.store import CallStore
from llmc.errors import CalibrationError
from llmc.layers.attention import AttentionCall, QuantAttention, watched
from llmc.models.parts import Part
from llmc.numerics.attention import head_scales
from llmc.numerics.attention_spec import ROLES
from llmc.numerics.densest_window import BINS, count_values, shortest_window

CALLS = 8  # over which an error is told, evenly spread over all
HeadScales = tuple[Tensor, Tensor, Tensor]  # of q, k and v, (heads,) each


class HeadRange:
    """How far from 0 the values of each head lie, over every call: all of them, or their shortest window."""

    def __init__(self, recall: float, heads: int, device: torch.device) -> None:
        self.recall = recall
        self.absmax = torch.zeros(heads, device=device)
        counts = torch.zeros(heads, BINS, device=device, dtype=torch.long)  # of each bf16 value: calls can be many
        self.counts = counts if recall < 1 else None

    def update(self, x: Tensor, seen: Tensor | None) -> Tensor:
        """x (batch, heads, tokens, width), of which only the tokens `seen` (batch, tokens) count; its own (heads,)."""
        x = x.transpose(1, 2)  # (batch, tokens, heads, width)
        rows = (x.flatten(0, 1) if seen is None else x[seen]).transpose(0, 1).flatten(1)  # (heads, values)
        if self.counts is not None:
            self.counts += count_values(rows)
        absmax = rows.abs().amax(1).float()
        self.absmax = torch.maximum(self.absmax, absmax)
        return absmax

    def result(self) -> Tensor:
        """(heads,), over all ranks."""
        absmax = distributed.reduce(self.absmax, "max")
        if self.counts is None:
            return absmax
        low, high = shortest_window(distributed.reduce(self.counts, "sum"), self.recall)
        return torch.minimum(torch.maximum(low.abs(), high.abs()), absmax)


@torch.no_grad()
def calibrated_scales(
    part: Part,
    attentions: Mapping[str, QuantAttention],
    store: CallStore,
    device: torch.device,
    on_call: Callable[[], None] = lambda: None,
) -> dict[str, HeadScales]:
    """The scales of each attention's heads, from every recorded call of all ranks."""
    ranges = {
        attention: [HeadRange(1.0 if role == "v" else attention.spec.recall, attention.heads, device) for role in ROLES]
        for attention in attentions.values()
    }

    def update(attention: QuantAttention, call: AttentionCall) -> None:
        for role, found, x, seen in zip(ROLES, ranges[attention], call.tensors, call.seen(), strict=True):
            finite.see(f"{role} of {part.name}.{attention.name}", found.update(x, seen))

    finite = Finite()
    with watched(attentions.values(), update):
        for call in store.calls(device):
            with at_call(call):
                part.module(*call.args, **call.kwargs)
            on_call()
    finite.check()
    return {name: _scales(attention, ranges[attention]) for name, attention in attentions.items()}


@torch.no_grad()
def attention_errors(
    part: Part,
    attentions: Mapping[str, QuantAttention],
    store: CallStore,
    device: torch.device,
    on_call: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Relative error of each attention's output, its inputs being right, over a few of the recorded calls of all
    ranks."""
    calls: list[tuple[int, str]] = []  # by number and attention
    powers: list[Tensor] = []  # of each call, (2,): of the error, and of the output; no call waits for a device

    def compare(attention: QuantAttention, call: AttentionCall) -> None:
        wanted = call.output().float()
        finite.see(f"what {part.name}.{attention.name} gives", wanted)
        difference = attention.quantized(call).output().float() - wanted
        calls.append((running_call().number, attention.name))
        powers.append(torch.stack([difference.square().sum(), wanted.square().sum()]))

    finite = Finite()
    with watched(attentions.values(), compare):
        for call in store.spread(CALLS).calls(device):
            with at_call(call):
                part.module(*call.args, **call.kwargs)
            on_call()
    finite.check()
    errors, outputs = dict.fromkeys(attentions, 0.0), dict.fromkeys(attentions, 0.0)
    own = [(*call, *both) for call, both in zip(calls, torch.stack(powers).tolist() if powers else [], strict=True)]
    for _, name, error, power in sorted(chain(*distributed.gather(own))):  # in one order, whoever ran the calls
        errors[name] += error
        outputs[name] += power
    for name in attentions:
        if not isfinite(errors[name] + outputs[name]):
            raise CalibrationError(
                f"{part.name}.{name} gives NaN or infinity once it is quantized; it must give numbers: exclude this "
                "attention, or choose another format for it"
            )
    return {name: errors[name] / max(outputs[name], 1e-30) for name in attentions}


def _scales(attention: QuantAttention, ranges: list[HeadRange]) -> HeadScales:
    q, k, v = (head_scales(found.result(), role, attention.spec) for role, found in zip(ROLES, ranges, strict=True))
    return q, k, v
