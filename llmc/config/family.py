"""Which adapter reads a folder, where only the family's name was given: folders tell its variants apart."""

from __future__ import annotations

import re
from pathlib import Path

from llmc.config.words import shown, suggest
from llmc.errors import ConfigError
from llmc.models.base import ModelAdapter, adapters, pipeline_index
from llmc.models.index import PipelineIndex

PUBLISHED = "Wan2.1-I2V-14B-480P"


def adapter_for(name: object, folder: Path, called: str = "model.type") -> str:
    """The adapter's own name as it is; of another name, or of none at all, the one that reads the folder. `called` is
    where the user gave the name."""
    if isinstance(name, str) and name in adapters():
        return name
    able = adapters() if name is None else adapters_called(name)
    if not able:
        families, own = ", ".join(family_names()), ", ".join(adapters())
        raise ConfigError(
            f"{called}: no model is called {shown(name)}; {suggest(name, model_names())}allowed: a family, whose "
            f"variant the folder tells ({families}); a published name, such as {PUBLISHED}; or {own}"
        )
    index = pipeline_index(folder)
    fitting = [own for own, cls in able.items() if cls.fits(index)]
    if len(fitting) != 1:
        raise misfit(name, folder, index, called)
    return fitting[0]


def check_fits(name: str, folder: Path, called: str) -> None:
    """Refuse a folder that the adapter does not read, in the words of whoever named the adapter."""
    index = pipeline_index(folder)
    if not adapters()[name].fits(index):
        raise misfit(name, folder, index, called)


def misfit(name: object, folder: Path, index: PipelineIndex, called: str) -> ConfigError:
    """Why a name does not go with a folder, and which one does."""
    fitting = [own for own, cls in adapters().items() if cls.fits(index)]
    if not fitting:
        return ConfigError(f"{folder} holds a {index}, which no adapter reads; there are {', '.join(adapters())}")
    write = f"{called} {fitting[0]}" if called.startswith("--") else f"{called}: {fitting[0]}"
    return ConfigError(
        f"{called} is {name}, but {folder} holds a {index}, and it is {fitting[0]}: write `{write}`, or name the "
        f"folder of a {name}"
    )


def is_family(name: object) -> bool:
    """Whether a name stands for an adapter without being its own."""
    return isinstance(name, str) and name not in adapters() and bool(adapters_called(name))


def adapters_called(name: object) -> dict[str, type[ModelAdapter]]:
    """Those that a name may mean; neither letter case nor what stands between words counts."""
    called = _fold(str(name))
    return {own: cls for own, cls in adapters().items() if called in map(_fold, (own, *cls.known_as))}


def model_names() -> list[str]:
    """Everything that a model's type can be called."""
    others = dict.fromkeys(name for cls in adapters().values() for name in cls.known_as)
    return [*others, *(name for name in adapters() if name not in others)]


def family_names() -> list[str]:
    """One name of each family."""
    return list(dict.fromkeys(cls.known_as[0] for cls in adapters().values() if cls.known_as))


def _fold(name: str) -> str:
    return re.sub(r"[-_. ]", "", name.lower().removesuffix("-diffusers"))
