"""Which adapter reads a folder, where only the family's name was given: folders tell its variants apart."""

from __future__ import annotations

from pathlib import Path

from llmc.config.paths import resolve_input
from llmc.config.words import choice, shown
from llmc.errors import ConfigError
from llmc.models.base import adapters, pipeline_index


def adapter_for(name: object, folder: Path) -> str:
    """The adapter's own name as it is; of a family's, or of none at all, the one that reads the folder."""
    if isinstance(name, str) and name in adapters():
        return name
    able = {own: cls for own, cls in adapters().items() if name is None or name in cls.known_as}
    if not able:
        raise ConfigError(f"no model is called {shown(name)}; {choice(name, model_names())}")
    index = pipeline_index(resolve_input(folder))
    fitting = [own for own, cls in able.items() if cls.fits(index)]
    if len(fitting) != 1:
        others = [own for own, cls in adapters().items() if cls.fits(index)]
        what = f"it is {' or '.join(others)}" if others else "no adapter reads it"
        raise ConfigError(
            f"{folder} holds a {index}, which is no {name or 'model that is known'}; {what}: "
            f"allowed are {', '.join(able)}; name the folder of such a model, or its own type"
        )
    return fitting[0]


def is_family(name: object) -> bool:
    """Whether a name stands for an adapter without being its own."""
    known = adapters()
    return isinstance(name, str) and name not in known and any(name in cls.known_as for cls in known.values())


def model_names() -> list[str]:
    """Everything that a model's type can be called."""
    families = dict.fromkeys(name for cls in adapters().values() for name in cls.known_as)
    return [*families, *(name for name in adapters() if name not in families)]
