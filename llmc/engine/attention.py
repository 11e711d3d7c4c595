"""Attentions of a part made ready for quantization, calibrated, and left float where they lose too much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from llmc.calib.attention import CALLS, attention_errors, calibrated_scales
from llmc.calib.block import heads_of
from llmc.calib.store import CallStore
from llmc.layers.attention import AttentionState, QuantAttention
from llmc.layers.target import Target, as_computed_attention
from llmc.log import log
from llmc.models.parts import ATTENDS, Part
from llmc.numerics.hadamard import random_hadamard
from llmc.policy.attention import AttentionPolicy
from llmc.progress import progress


def attention_names(part: Part) -> list[str]:
    """The full names of everything in the blocks of a part that attends."""
    return [name for name, _, _ in attentions_of(part)]


def quantized_attentions(
    part: Part, policy: AttentionPolicy | None, targets: Sequence[Target]
) -> dict[str, QuantAttention]:
    """The attentions of a part that are to be quantized, by full name, as the targets compute them."""
    found: dict[str, QuantAttention] = {}
    if policy is None or not part.is_denoiser:
        return found
    generator = torch.Generator().manual_seed(policy.seed)
    rotations: dict[int, torch.Tensor] = {}  # one for each width: nothing is gained by more
    for name, module, asks_itself in attentions_of(part):
        asked = policy.spec_of(name, part.name)
        if asked is None:
            continue
        spec = as_computed_attention(asked, targets)
        found[name] = QuantAttention(name, module, spec, heads_of(module), asks_itself)
        if spec.rotate:
            width, weight = head_width(module), next(module.parameters())
            if width not in rotations:
                stored: torch.dtype = getattr(torch, spec.scale_dtype)
                rotations[width] = random_hadamard(width, generator).to(stored)
            found[name].state = AttentionState(rotation=rotations[width].to(weight))
    return found


def head_width(attention: nn.Module) -> int:
    """How many values of a token one head has."""
    own = dict(attention.named_children())
    queries: Any = next((own[query] for query, key in ATTENDS if query in own and query != key), None)
    if queries is None:  # one linear makes queries, keys and values
        return int(attention.head_dim)  # type: ignore[arg-type]
    return int(queries.out_features) // heads_of(attention)


def calibrate_attentions(
    part: Part, attentions: Mapping[str, QuantAttention], store: CallStore, max_error: float | None
) -> dict[str, float]:
    """Fix the scales that are calibrated, measure each attention's error, and leave float what is above `max_error`."""
    device = next(part.module.parameters()).device
    store.number_over_ranks()
    static = {name: attention for name, attention in attentions.items() if not attention.spec.dynamic}
    if static:
        with progress(f"heads of {part.name}", len(store)) as advance:
            for name, scales in calibrated_scales(part, static, store, device, advance).items():
                static[name].state = replace(static[name].state, scales=scales)
    with progress(f"attention errors of {part.name}", min(CALLS, len(store))) as advance:
        errors = attention_errors(part, attentions, store, device, advance)
    above = [name for name, error in errors.items() if max_error is not None and error > max_error]
    for name in above:
        attentions[name].state = replace(attentions[name].state, stays_float=True)
    if above:
        log.info("%d of %d attentions stay float, their error is above %g: %s",
                 len(above), len(attentions), max_error, ", ".join(above))  # fmt: skip
    return errors


@contextmanager
def plainly_rounded(attentions: Mapping[str, QuantAttention]) -> Iterator[None]:
    """For a while, scales measured at run time and no rotation in place of what was decided: the same bits, plainly."""
    with ExitStack() as stack:
        for attention in attentions.values():
            stack.callback(setattr, attention, "state", attention.state)
            attention.state = AttentionState()
        yield


def attentions_of(part: Part) -> Iterator[tuple[str, nn.Module, bool]]:
    """The full name of each attention in the blocks of a part, the module, and whether it attends to itself."""
    for block, module in part.blocks:
        for name, asks_itself in part.attentions(module).items():
            yield f"{block}.{name}".rstrip("."), module.get_submodule(name), asks_itself
