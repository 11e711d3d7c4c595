"""What calibration measures of attentions: where each head's values lie, and what quantization does to the output.

It is measured over recorded calls once the linears are done, in the float function but in their new bases: smoothing
that goes into the linear that makes the values changes what attention is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from llmc import distributed
from llmc.calib.store import CallStore
from llmc.layers.attention import AttentionCall, QuantAttention, watched
from llmc.models.parts import Part
from llmc.numerics.attention import head_scales
from llmc.numerics.attention_spec import ROLES
from llmc.numerics.recall import count_values, shortest_window

CALLS = 8  # over which an error is told, evenly spread over all
HeadScales = tuple[Tensor, Tensor, Tensor]  # of q, k and v, (heads,) each


class HeadRange:
    """How far from 0 the values of each head lie, over every call: all of them, or their shortest window."""

    def __init__(self, recall: float) -> None:
        self.recall = recall
        self.absmax: Tensor | None = None
        self.counts: Tensor | None = None  # one for each bf16 value: calls can be many, and ranks several

    def update(self, x: Tensor, seen: Tensor | None) -> None:
        """x (batch, heads, tokens, width), of which only the tokens `seen` (batch, tokens) count."""
        x = x.transpose(1, 2)  # (batch, tokens, heads, width)
        rows = (x.flatten(0, 1) if seen is None else x[seen]).transpose(0, 1).flatten(1)  # (heads, values)
        if self.recall < 1:
            counts = count_values(rows)
            self.counts = counts if self.counts is None else self.counts + counts
        absmax = rows.abs().amax(1).float()
        self.absmax = absmax if self.absmax is None else torch.maximum(self.absmax, absmax)

    def result(self) -> Tensor:
        """(heads,), over all ranks."""
        assert self.absmax is not None
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
    """The scales of each attention's heads, from every recorded call."""
    ranges = {
        attention: [HeadRange(1.0 if role == "v" else attention.spec.recall) for role in ROLES]
        for attention in attentions.values()
    }

    def update(attention: QuantAttention, call: AttentionCall) -> None:
        for found, x, seen in zip(ranges[attention], call.tensors, call.seen(), strict=True):
            found.update(x, seen)

    with watched(attentions.values(), update):
        for call in store.calls(device):
            part.module(*call.args, **call.kwargs)
            on_call()
    return {name: _scales(attention, ranges[attention]) for name, attention in attentions.items()}


@torch.no_grad()
def attention_errors(
    part: Part,
    attentions: Mapping[str, QuantAttention],
    store: CallStore,
    device: torch.device,
    on_call: Callable[[], None] = lambda: None,
) -> dict[str, float]:
    """Relative error of each attention's output, its inputs being right, over a few of the recorded calls."""
    powers = {attention: torch.zeros(2, dtype=torch.float64) for attention in attentions.values()}

    def compare(attention: QuantAttention, call: AttentionCall) -> None:
        wanted = call.output().float()
        difference = attention.quantized(call).output().float() - wanted
        powers[attention] += torch.stack([difference.square().sum(), wanted.square().sum()]).double().cpu()

    with watched(attentions.values(), compare):
        for call in store.spread(CALLS).calls(device):
            part.module(*call.args, **call.kwargs)
            on_call()
    return {name: _share(powers[attention], device) for name, attention in attentions.items()}


def _scales(attention: QuantAttention, ranges: list[HeadRange]) -> HeadScales:
    q, k, v = (head_scales(found.result(), role, attention.spec) for role, found in zip(ROLES, ranges, strict=True))
    return q, k, v


def _share(powers: Tensor, device: torch.device) -> float:
    error, power = distributed.reduce(powers.to(torch.float32).to(device), "sum").tolist()
    return float(error / max(power, 1e-30))
