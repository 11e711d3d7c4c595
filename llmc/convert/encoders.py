"""Encoders in the names and shapes of Wan's own release, which LightX2V reads too, and their weights from a file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch

from llmc.convert.checkpoint import open_checkpoint
from llmc.convert.model_types import MODEL_TYPES
from llmc.convert.names import Names
from llmc.convert.safetensors_file import LazyTensor
from llmc.convert.weights import find_weights

RELEASED = {"UMT5EncoderModel": "wan_t5", "CLIPVisionModel": "wan_clip"}  # class -> model type
UNREAD = ("textual.", "visual.head", "log_scale")  # of the release's CLIP: no image encoder reads them


def to_release(class_name: str, tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """transformers' tensors of an encoder as Wan's release has them."""
    naming = naming_of_release(class_name, tensors)
    assert naming is not None, f"Wan's release has no {class_name}"
    return naming.to_original(tensors)


def load_encoder(module: torch.nn.Module, path: Path) -> None:
    """Replace every weight of `module` by those at `path`."""
    tensors = encoder_weights(module, path)
    for name, parameter in module.named_parameters():
        parameter.data.copy_(tensors[name].make())


def encoder_weights(module: torch.nn.Module, path: Path) -> dict[str, LazyTensor]:
    """The weights at `path` of such an encoder, in either naming; nothing may be missing or left over."""
    wanted = dict(module.named_parameters())
    naming = naming_of_release(type(module).__name__, wanted)
    return find_weights(path, _own_names(module, open_checkpoint(path).tensors), wanted, naming, UNREAD)


def naming_of_release(class_name: str, names: Iterable[str]) -> Names | None:
    """The table between these names of an encoder and those of Wan's release; None if that has no such encoder."""
    if class_name not in RELEASED:
        return None
    names = list(names)
    namings = MODEL_TYPES[RELEASED[class_name]].namings.values()
    return next((naming for naming in namings if not naming.not_ours(names)), None)


def _own_names(module: torch.nn.Module, tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """A tied weight under the name of its first owner; files of older transformers have a prefix and a buffer."""
    first = {parameter: name for name, parameter in module.named_parameters()}
    owner = {name: first[parameter] for name, parameter in module.named_parameters(remove_duplicate=False)}
    found = {}
    for name, tensor in tensors.items():
        short = name if name in owner else name.removeprefix("vision_model.").removeprefix("text_model.")
        if not short.endswith("embeddings.position_ids"):
            found[owner.get(short, name)] = tensor
    return found
