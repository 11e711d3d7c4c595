"""The `save` section: where exports go, and a section for each target that is to be written, with its own settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BeforeValidator, Field, StrictBool, create_model, model_validator
from pydantic.fields import FieldInfo

from llmc.config.paths import OutputPath
from llmc.export.base import Exporter
from llmc.plugin import Strict, discover

# the exporters that fingerprints take in even where they are not asked for, as they did when there were no others
ALWAYS_FINGERPRINTED = frozenset({"comfyui", "diffusers", "fake_quant", "lightx2v", "mindie", "transformed"})


class SaveBase(Strict):
    """What is written for a runtime."""

    path: OutputPath | None = Field(None, description="folder of the exported model")
    overwrite: StrictBool = Field(False, description="True: replace what another run left in `path`")

    @model_validator(mode="after")
    def _says_where_to_write(self) -> SaveBase:
        asked = self._asked()
        if asked and self.path is None:
            raise ValueError(f"{asked[0].name} is asked for, but there is no `path`; name the folder to write to")
        taken: dict[str, str] = {}
        for exporter in asked:
            if taken.setdefault(exporter.subfolder, exporter.name) != exporter.name:
                raise ValueError(
                    f"{taken[exporter.subfolder]} and {exporter.name} both write to `path` itself; give each a run of "
                    "its own"
                )
        return self

    def targets(self) -> list[tuple[Exporter, Path]]:
        """The exporters that are asked for, each with its folder; the one that writes to `path` itself comes first,
        since that is where a runtime or the converter is pointed at."""
        if self.path is None:
            return []
        found = [(exporter, self.path / exporter.subfolder) for exporter in self._asked()]
        return sorted(found, key=lambda target: target[0].subfolder)

    def fingerprinted(self) -> dict[str, Any]:
        """What fingerprints take in: a switch for each exporter, and the settings of all beside one another. It was
        the form of the section once, and must stay: a run that is known by its fingerprint is found again."""
        said: dict[str, Any] = {}
        for name, cls in exporters().items():
            asked: Exporter | None = getattr(self, name)
            if asked is None and name not in ALWAYS_FINGERPRINTED:
                continue
            settings = (asked or cls()).model_dump(  # type: ignore[call-arg]  # each names itself
                mode="json", exclude={"name"}
            )
            said[switch_of(cls)] = asked is not None
            for setting, value in settings.items():
                key = cls.flat_names.get(setting, setting)
                said[f"{name}.{key}" if key in said else key] = value
        return said

    def _asked(self) -> list[Exporter]:
        given = [getattr(self, name) for name in exporters()]
        return [exporter for exporter in given if exporter is not None]


def exporters() -> dict[str, type[Exporter]]:
    """Every exporter, by the name of its section."""
    return discover("llmc.export", Exporter)


def settings_of(exporter: type[Exporter]) -> list[str]:
    """The keys of its section."""
    return [name for name in exporter.model_fields if name != "name"]


def switch_of(exporter: type[Exporter]) -> str:
    """What asks for it in a flat `save`, where all settings lie beside one another."""
    return exporter.switch or f"save_{exporter.model_fields['name'].default}"


def _section_of(switch: Any) -> Any:
    """True is a section without settings, False none."""
    return ({} if switch else None) if isinstance(switch, bool) else switch


def _save_config() -> type[SaveBase]:
    """`SaveBase` with a section for every exporter, which is validated straight into it."""
    fields: dict[str, tuple[Any, FieldInfo]] = {}
    for name, cls in exporters().items():
        if name in SaveBase.model_fields:
            raise TypeError(f"{cls.__module__} names its exporter {name}, which is another key of `save`")
        section: Any = Annotated[cls | None, BeforeValidator(_section_of)]
        fields[name] = (section, FieldInfo(default=None, description=cls.summary()))
    return create_model("SaveConfig", __base__=SaveBase, __doc__=SaveBase.__doc__, **fields)  # type: ignore[call-overload,no-any-return]


if TYPE_CHECKING:
    SaveConfig = SaveBase
else:
    SaveConfig = _save_config()
