"""Whether calibration data are calls of the model: what they say of theirs, and whether it can be called so."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from llmc.calib.store import Call, CallStore, map_tree
from llmc.calib.stream import run_to_block
from llmc.compat.modelslim.scripted.calib_data import CalibData, origin_of
from llmc.errors import CalibrationError
from llmc.models.parts import Part

ADVICE = "dump the calls of this very model, as it is now, with DumperManager"
SHOWN = 5  # differences in one message
Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


def check_origin(calib_data: Sequence[Any], model: nn.Module) -> None:
    """Refuse calls of another model, where the dump says whose they are."""
    if not isinstance(calib_data, CalibData):
        return
    there, here = calib_data.origin, origin_of(model)
    # a setting that one of them lacks is no sign: versions of diffusers add some
    differing = [key for key, value in there.items() if here.get(key, value) != value]
    if differing:
        found = [f"{key} is {there[key]} there and {here[key]} here" for key in differing[:SHOWN]]
        more = f", and {len(differing) - SHOWN} more differ" if len(differing) > SHOWN else ""
        raise CalibrationError(f"calib_data was dumped from another model: {', '.join(found)}{more}; {ADVICE}")


def check_calls(part: Part, calls: CallStore) -> None:
    """Run the network up to its first block, once for each form that calls have, and refuse what it cannot take."""
    device = next(part.module.parameters()).device
    known: set[str] = set()
    for call in calls.calls("cpu"):
        form = _form(part.module, call)
        if form in known:
            continue
        known.add(form)
        check_call(part, _on(device, call), form)


def check_call(part: Part, call: Call, form: str) -> None:
    """Run the network up to its first block; a linear that cannot multiply what it is given is named."""

    def refusal(why: str) -> CalibrationError:
        what = f"calib_data[{call.sample}] is no call of this {type(part.module).__name__}"
        return CalibrationError(f"{what}: {why}; the call has {form}: {ADVICE}")

    with inputs_checked(part.module, refusal):
        try:
            run_to_block(part, 0, call, {})
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, TypeError, ValueError, AttributeError) as error:  # of the network's own code
            says = (str(error) or type(error).__name__).splitlines()[0]
            raise refusal(f"the network says: {says}") from error


@contextmanager
def inputs_checked(network: nn.Module, refusal: Callable[[str], CalibrationError]) -> Iterator[None]:
    """Refuse what a linear or a convolution is given and cannot multiply."""

    def check(name: str, layer: nn.Linear | Convolution, args: tuple[Tensor, ...]) -> None:
        x, weight = args[0], layer.weight
        if isinstance(layer, nn.Linear):
            takes, given = layer.in_features, x.shape[-1]
        else:
            takes, given = layer.in_channels, x.shape[1]
        if takes != given:
            raise refusal(f"{name} takes {takes} channels, and is given {given}")
        if weight.dtype != x.dtype:
            raise refusal(f"{name} is in {_type(weight)}, and is given {_type(x)}")

    with ExitStack() as hooks:
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Linear | Convolution):
                hooks.callback(layer.register_forward_pre_hook(partial(check, name)).remove)
        yield


def _form(network: nn.Module, call: Call) -> str:
    """The arguments of a call by name: of each tensor its shape and type, other values as they are."""
    given = inspect.signature(network.forward).bind(*call.args, **call.kwargs).arguments
    shown = map_tree(given, lambda tensor: f"{tuple(tensor.shape)} {_type(tensor)}", Tensor)
    return ", ".join(f"{name} {value}" for name, value in shown.items() if value is not None)


def _on(device: torch.device, call: Call) -> Call:
    args, kwargs = (map_tree(tree, lambda tensor: tensor.to(device), Tensor) for tree in (call.args, call.kwargs))
    return replace(call, args=args, kwargs=kwargs)


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
