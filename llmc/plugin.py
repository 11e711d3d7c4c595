"""A plug-in is a frozen settings class with a `name`, in a file of the right folder; adding the file is all."""

import importlib
import pkgutil
from functools import cache
from typing import Annotated, Any, ClassVar, TypeVar, Union

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Strict(BaseModel):
    """Settings that refuse unknown keys, NaN and infinity, and never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    called: ClassVar[str] = "key"  # what errors call a field of it: those of a script are arguments


class Plugin(Strict):
    """Base of every algorithm, format, model adapter, exporter and metric; each declares `name: Literal[...]`."""

    name: str

    def label(self) -> str:
        """The name, and the settings that are not the defaults."""
        changed = self.model_dump(exclude={"name"}, exclude_defaults=True)
        settings = ", ".join(f"{key} {value}" for key, value in changed.items())
        return f"{self.name} ({settings})" if settings else self.name

    @classmethod
    def summary(cls) -> str:
        """The first line of the docstring: what `llmc list` and the documentation print."""
        return (cls.__doc__ or "").strip().splitlines()[0]


P = TypeVar("P", bound=Plugin)
S = TypeVar("S")


@cache
def discover(package: str, base: type[P]) -> dict[str, type[P]]:
    """Import every module in `package`, at any depth; return the subclasses of `base` that declare a name, by it."""
    root = importlib.import_module(package)
    for module in pkgutil.walk_packages(root.__path__, f"{package}."):
        importlib.import_module(module.name)
    found: dict[str, type[P]] = {}
    for cls in subclasses(base):
        field = cls.model_fields.get("name")
        if field is None or not isinstance(field.default, str):
            continue
        if found.setdefault(field.default, cls) is not cls:
            other = found[field.default]
            raise TypeError(f"two plug-ins are named {field.default!r}: {other.__module__} and {cls.__module__}")
    return dict(sorted(found.items()))


def by_name(package: str, base: type[P]) -> Any:
    """The pydantic type of every plug-in in `package`; a bare string means that plug-in with its defaults."""
    plugins = tuple(discover(package, base).values())
    as_mapping = BeforeValidator(lambda value: {"name": value} if isinstance(value, str) else value)
    if len(plugins) == 1:
        return Annotated[plugins[0], as_mapping]
    return Annotated[Union[plugins], Field(discriminator="name"), as_mapping]  # noqa: UP007


def subclasses(base: type[S]) -> list[type[S]]:
    """All of them that are loaded, of any depth."""
    found: list[type[S]] = []
    for direct in base.__subclasses__():
        found += [direct, *subclasses(direct)]
    return found
