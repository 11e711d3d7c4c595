"""What a pipeline calls a network with, written down as calibration data: tensors, containers and plain values."""

from __future__ import annotations

import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor, nn

from llmc.calib.finite import WHAT_TO_DO, called_with
from llmc.calib.store import Call, CallStore
from llmc.compat.modelslim.scripted.calib_data import CalibData, origin_of
from llmc.compat.modelslim.scripted.files import write_calib_data
from llmc.errors import CalibrationError, ConfigError
from llmc.finite import is_finite
from llmc.layers.steps import running_step

CaptureMode = Literal["args", "kwargs", "timestep"]
PLAIN = (type(None), bool, int, float, str)


class DumperManager:
    """Notes every call of a network until `save`.

    `capture_mode` says what a call is in the file: `args`, all of its arguments by position; `kwargs`, all of them by
    name; `timestep`, both as the pipeline gave them, and the denoising step that TimestepManager was told. Tensors are
    kept on the host, and one that several calls share only once. The file also says which model was called.
    """

    def __init__(self, model: nn.Module, capture_mode: CaptureMode = "args") -> None:
        if not isinstance(model, nn.Module):
            raise ConfigError(
                f"the model is a {type(model).__name__}, which is no network; give the transformer of the pipeline"
            )
        if capture_mode not in get_args(CaptureMode):
            raise ConfigError(f"capture_mode is {capture_mode!r}; it is one of {', '.join(get_args(CaptureMode))}")
        self.capture_mode = capture_mode
        self._signature = inspect.signature(model.forward)
        odd = [p.name for p in self._signature.parameters.values() if p.kind is not p.POSITIONAL_OR_KEYWORD]
        if odd and capture_mode != "timestep":
            raise ConfigError(
                f"{type(model).__name__}.forward has {', '.join(odd)}, which cannot be given both by position and by "
                f"name, so capture_mode {capture_mode!r} cannot keep them; use 'timestep', which keeps both forms"
            )
        self._origin = origin_of(model)
        self._calls = CallStore()
        self._hook = model.register_forward_pre_hook(self._note, with_kwargs=True)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the calls of all this time, and note no more; `safe_torch_load` reads them."""
        self._hook.remove()
        if len(self._calls) == 0:
            raise CalibrationError(f"the model was not called, so there is nothing for {path}; run the pipeline first")
        calls = [self._item(call) for call in self._calls.calls("cpu")]
        write_calib_data(Path(path), CalibData(calls, self._origin))

    def _note(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        bound = self._signature.bind(*args, **kwargs)
        if strange := [text for name, value in bound.arguments.items() for text in _strange(value, name)]:
            raise CalibrationError(
                f"{type(model).__name__} was called with {', '.join(strange)}; calibration data are tensors, lists, "
                "tuples, dictionaries, numbers, text and None: call the pipeline without it"
            )
        if wrong := _not_numbers(self._signature, args, kwargs):
            raise CalibrationError(
                f"call {len(self._calls)} of {type(model).__name__} has NaN or infinity in {', '.join(wrong)}; "
                f"calibration data are numbers: {WHAT_TO_DO}"
            )
        if self.capture_mode == "args":
            bound.apply_defaults()
            args, kwargs = bound.args, bound.kwargs
        elif self.capture_mode == "kwargs":
            args, kwargs = (), dict(bound.arguments)
        step = running_step() if self.capture_mode == "timestep" else len(self._calls)
        self._calls.add(Call(0, step, None, "", args, kwargs))

    def _item(self, call: Call) -> Sequence[Any] | dict[str, Any]:
        match self.capture_mode:
            case "args":
                return call.args
            case "kwargs":
                return call.kwargs
        return {"timestep_idx": call.step, "args": call.args, "kwargs": call.kwargs}


def read_calls(calib_data: Sequence[Any], model: nn.Module, with_steps: bool = False) -> CallStore:
    """Calls of `model`, in any of the three forms; `with_steps` accepts only the one that tells the steps."""
    store, signature = CallStore(), inspect.signature(model.forward)
    for number, item in enumerate(calib_data):
        match item:
            case {"timestep_idx": int(step), "args": list() | tuple() as args, "kwargs": dict() as kwargs} if step >= 0:
                call = Call(number, step, None, "", tuple(args), kwargs)
            case _ if with_steps:
                raise CalibrationError(
                    f"calib_data[{number}] does not tell its denoising step, and w8a8_timestep has scales for each; "
                    "dump the data with capture_mode='timestep'"
                )
            case dict():
                call = Call(number, number, None, "", (), item)
            case list() | tuple():
                call = Call(number, number, None, "", tuple(item), {})
            case _:
                raise CalibrationError(
                    f"calib_data[{number}] is a {type(item).__name__}; a call is a list of its arguments, a dictionary "
                    "of them, or one with timestep_idx, args and kwargs: load what DumperManager.save wrote"
                )
        try:
            signature.bind(*call.args, **call.kwargs)
        except TypeError as error:
            raise CalibrationError(
                f"calib_data[{number}] is no call of {type(model).__name__}: {error}; forward takes "
                f"{', '.join(signature.parameters)}: dump the calls of this very model with DumperManager"
            ) from None
        if wrong := _not_numbers(signature, call.args, call.kwargs):
            raise CalibrationError(
                f"calib_data[{number}] (step {call.step}) holds NaN or infinity in {', '.join(wrong)}; calibration "
                f"data are numbers, so leave that call out, or dump all again: {WHAT_TO_DO}"
            )
        store.add(call)
    return store


def _not_numbers(signature: inspect.Signature, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """The arguments of a call that hold NaN or infinity."""
    return [name for name, x in called_with(signature, args, kwargs).items() if not is_finite(x)]


def _strange(value: Any, name: str) -> Iterator[str]:
    """What of a value `torch.load` would not read with weights_only, by its place."""
    if type(value) in (list, tuple):
        for index, item in enumerate(value):
            yield from _strange(item, f"{name}[{index}]")
    elif type(value) is dict:
        for key, item in value.items():
            yield from _strange(item, f"{name}[{key!r}]")
    elif not isinstance(value, Tensor) and type(value) not in PLAIN:
        yield f"{name}, a {type(value).__name__}"
