"""An encoder's weights from a file of its own, in transformers' names or those of Wan's release; strict about both."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from llmc.convert.checkpoint import open_checkpoint
from llmc.convert.encoders import ORIGINALS, from_original
from llmc.convert.safetensors_file import LazyTensor
from llmc.errors import ExportError

SHOWN = 5  # names in one message


def load_encoder(module: torch.nn.Module, path: Path) -> None:
    """Replace every weight of `module` by those at `path`, in either naming; nothing may be missing or left over."""
    class_name = type(module).__name__
    tensors: Mapping[str, LazyTensor] = open_checkpoint(path).tensors
    original = ORIGINALS.get(class_name)
    if original is not None and any(name.startswith(original.sign) for name in tensors):
        tensors = from_original(class_name, tensors)
    wanted = dict(module.named_parameters())
    tensors = _own_names(module, wanted, tensors)
    _must_fit(class_name, path, wanted, tensors)
    for name, parameter in wanted.items():
        parameter.data.copy_(tensors[name].make())


def _own_names(
    module: torch.nn.Module, wanted: Mapping[str, torch.nn.Parameter], tensors: Mapping[str, LazyTensor]
) -> dict[str, LazyTensor]:
    """A tied weight under the name of its first owner; files of older transformers have a prefix and a buffer."""
    first = {parameter: name for name, parameter in wanted.items()}
    owner = {name: first[parameter] for name, parameter in module.named_parameters(remove_duplicate=False)}
    found = {}
    for name, tensor in tensors.items():
        short = name if name in owner else name.removeprefix("vision_model.").removeprefix("text_model.")
        if not short.endswith("embeddings.position_ids"):
            found[owner.get(short, name)] = tensor
    return found


def _must_fit(
    class_name: str, path: Path, wanted: Mapping[str, torch.nn.Parameter], tensors: Mapping[str, LazyTensor]
) -> None:
    wrong = [
        f"{name} is {tuple(tensors[name].shape)} {tensors[name].dtype}, not {tuple(parameter.shape)} in floats"
        for name, parameter in wanted.items()
        if name in tensors
        and (tuple(tensors[name].shape) != tuple(parameter.shape) or not tensors[name].dtype.is_floating_point)
    ]
    problems = {"is without": wanted.keys() - tensors.keys(), "also has": tensors.keys() - wanted.keys(), "": wrong}
    said = [f"{what} {_few(names)}".strip() for what, names in problems.items() if names]
    if said:
        raise ExportError(
            f"{path} does not fit the {class_name} of the pipeline: it {'; '.join(said)}.\n"
            "  Give the float weights of that very encoder: transformers' own files, or the .pth of Wan's release"
        )


def _few(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
