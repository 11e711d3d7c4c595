"""Layers by name, in the names of diffusers and in those of the repository that a model comes from."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from fnmatch import fnmatchcase

from torch import nn

from llmc.convert.names import Names
from llmc.errors import ConfigError
from llmc.models.base import adapter_of

Globs = str | Iterable[str]


def get_disable_layer_names(
    model: nn.Module, layer_include: Globs = "*", layer_exclude: Globs = ()
) -> list[str]:  # fmt: skip
    """The linears that are NOT to be quantized: those that no glob of `layer_include` fits, or one of `layer_exclude`.

    A glob fits a layer by either of its names: `*fc2*` fits HunyuanVideo's `ff.net.2`.
    """
    layers = names_of_linears(model)
    include, exclude = (_matching(layers, globs) for globs in (layer_include, layer_exclude))
    return [name for name in layers if name not in include or name in exclude]


def names_of_linears(model: nn.Module) -> dict[str, tuple[str, ...]]:
    """Every linear of the model: its name, and all names that it goes by."""
    naming = Names(adapter_of(model).original(model))
    found: dict[str, tuple[str, ...]] = {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear):
            original = naming.original_module(name)
            found[name] = (name,) if original is None else (name, original)
    return found


def resolve_layers(model: nn.Module, names: Iterable[str]) -> list[str]:
    """Layers that were written down, in either naming, by the names of `model`."""
    layers = names_of_linears(model)
    unknown = [name for name in names if not any(name in known for known in layers.values())]
    if unknown:
        raise _unknown("name", unknown[0], layers)
    wanted = set(names)
    return [name for name, known in layers.items() if wanted & set(known)]


def _matching(layers: dict[str, tuple[str, ...]], globs: Globs) -> Collection[str]:
    found: set[str] = set()
    for glob in [globs] if isinstance(globs, str) else globs:
        fitting = {name for name, known in layers.items() if any(fnmatchcase(one, glob) for one in known)}
        if not fitting:
            raise _unknown("pattern", glob, layers)
        found |= fitting
    return found


def _unknown(what: str, name: str, layers: dict[str, tuple[str, ...]]) -> ConfigError:
    every = sorted({name for known in layers.values() for name in known})
    near = get_close_matches(name, every, n=3, cutoff=0.3) or every[:3]
    return ConfigError(f"the {what} {name!r} matches no linear of the model; they are named like {', '.join(near)}")
