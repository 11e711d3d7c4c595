"""Errors on the float trajectory: each call is fed what the float run fed it, so that errors do not pile up."""

from __future__ import annotations

from collections import defaultdict
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from llmc.calib.store import CallStore
from llmc.layers.steps import at_step
from llmc.models.parts import Part

StepErrors = dict[int, dict[int, list[float]]]  # sample -> step -> error of each call


@torch.no_grad()
def teacher_forced_errors(part: Part, store: CallStore, device: torch.device) -> StepErrors:
    """Relative error of the network's output on each recorded call, in the mode that its layers are in now."""
    errors: StepErrors = defaultdict(lambda: defaultdict(list))
    for call in store.calls(device):
        with at_step(call.step):
            output = first_tensor(part.read(part.module(*call.args, **call.kwargs)))
        errors[call.sample][call.step].append(relative_error(output, first_tensor(call.output)))
    return errors


def every_error(errors: StepErrors) -> list[float]:
    """The errors of all calls, whatever their sample and step."""
    found: list[float] = []
    for steps in errors.values():
        found.extend(chain.from_iterable(steps.values()))
    return found


def relative_error(value: Tensor, reference: Tensor) -> float:
    """|value - reference|^2 / |reference|^2 in float32: the power of the error as a share of the signal's."""
    difference, reference = value.float() - reference.float(), reference.float()
    return float(difference.square().sum() / reference.square().sum().clamp(min=1e-30))


def first_tensor(output: Any) -> Tensor:
    """A network's or block's main output, whatever it is wrapped in; SD3's last block gives (None, image)."""
    while not isinstance(output, Tensor):
        values = output.values() if isinstance(output, dict) else output
        output = next(value for value in values if value is not None)
    return output
