"""A network by itself: built from its configuration, and filled with tensors that are all there and all fit."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from llmc.errors import AdapterError
from llmc.files.numbers import source_of
from llmc.files.words import shown
from llmc.models.base import quiet_libraries
from llmc.models.index import stored_dtype
from llmc.models.libraries import Loading
from llmc.models.settings import check_settings

SHOWN = 5  # names in one message


class Made(Protocol):
    """A tensor of a checkpoint, which is read when it is made."""

    def make(self) -> torch.Tensor: ...


def empty_network(config: Mapping[str, Any]) -> torch.nn.Module:
    """The network of diffusers that a config.json describes; on the meta device, nothing of it is computed."""
    quiet_libraries()
    import diffusers

    name = config.get("_class_name")
    made: Any = getattr(diffusers, name, None) if isinstance(name, str) and name.isidentifier() else None
    if not (isinstance(made, type) and issubclass(made, diffusers.ModelMixin)):
        raise AdapterError(
            f"{source_of(config)} names {shown(name)}, which is no network of diffusers; take the config.json that "
            "belongs to these weights"
        )
    check_settings(config)
    with Loading(f"the {name} of {source_of(config)}"), torch.device("meta"):
        network: torch.nn.Module = made.from_config(dict(config))  # type: ignore[attr-defined]
    return network.eval()


def filled_network(empty: torch.nn.Module, tensors: Mapping[str, Made], dtype: torch.dtype) -> torch.nn.Module:
    """Such a network with its tensors, in the types that diffusers would load them in."""
    network = unfilled_network(empty)
    state = {name: tensor.make().to(loaded_dtype(empty, name, dtype)) for name, tensor in tensors.items()}
    network.load_state_dict(state, strict=True, assign=True)
    return network.requires_grad_(False)


def unfilled_network(empty: torch.nn.Module) -> torch.nn.Module:
    """Such a network of which only the parameters are still to come."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):  # rotary tables are computed, not stored
        network: torch.nn.Module = type(empty).from_config(empty.config)  # type: ignore[attr-defined]
    return network.eval()


def loaded_dtype(network: torch.nn.Module, tensor: str, dtype: torch.dtype) -> torch.dtype:
    """The type that diffusers would load a tensor in, in a network of that type."""
    precise = frozenset(getattr(network, "_keep_in_fp32_modules", None) or ())
    return torch.float32 if precise & set(tensor.split(".")) else dtype


def dtype_of(path: Path, torch_dtype: str, given: Mapping[str, torch.nn.Module]) -> torch.dtype:
    """The type that a pipeline runs in: the one asked for, or that of its transformer."""
    if torch_dtype != "auto":
        asked: torch.dtype = getattr(torch, torch_dtype)
        return asked
    own: torch.dtype = given["transformer"].dtype if "transformer" in given else stored_dtype(path / "transformer")  # type: ignore[assignment]
    return own


def misfits(found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> list[str]:
    """What a checkpoint lacks, has besides, and has in another shape, a line for each; none if it fits."""
    reshaped = [
        f"{name} {found[name]} instead of {shape}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    problems = {
        "it lacks": sorted(wanted.keys() - found.keys()),
        "it has besides": sorted(found.keys() - wanted.keys()),
        "of another shape are": reshaped,
    }
    return [f"  {what} {len(names)}: {some(names)}" for what, names in problems.items() if names]


def some(names: list[str]) -> str:
    """The first few of them."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
