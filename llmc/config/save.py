"""The `save` section: a switch for each exporter, and the exporters' own settings beside them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field, StrictBool, create_model, model_validator
from pydantic.fields import FieldInfo

from llmc.config.paths import OutputPath
from llmc.export.base import Exporter
from llmc.plugin import Strict, discover


class SaveBase(Strict):
    """What is written for a runtime."""

    save_path: OutputPath | None = Field(None, description="folder of the exported model")
    overwrite: StrictBool = Field(False, description="True: replace what another run left in save_path")

    @model_validator(mode="after")
    def _says_what_is_written(self) -> SaveBase:
        on = [cls for cls in exporters() if getattr(self, cls.switch)]
        if on and self.save_path is None:
            raise ValueError(f"{on[0].switch} is True, but there is no save_path; name the folder to write to")
        used = {name for cls in on for name in settings_of(cls)}
        for name in self.model_fields_set - used:
            owners = [cls.switch for cls in exporters() if name in settings_of(cls)]
            if owners:
                raise ValueError(f"{name} is a setting of {' and '.join(owners)}, which is not asked for; "
                                 f"add `{owners[0]}: True`, or leave {name} out")  # fmt: skip
        taken: dict[str, str] = {}
        for cls in on:
            if taken.setdefault(cls.subfolder, cls.switch) != cls.switch:
                raise ValueError(f"{taken[cls.subfolder]} and {cls.switch} both write to save_path itself; "
                                 "give each a run of its own")  # fmt: skip
        return self

    def targets(self) -> list[tuple[Exporter, Path]]:
        """The exporters that are asked for, each with its folder; the one that writes to save_path itself comes first,
        since that is where a runtime or the converter is pointed at."""
        found = []
        for cls in exporters():
            if getattr(self, cls.switch) and self.save_path is not None:
                own = cls(**{name: getattr(self, name) for name in settings_of(cls)})
                found.append((own, self.save_path / cls.subfolder))
        return sorted(found, key=lambda target: target[0].subfolder)


def exporters() -> list[type[Exporter]]:
    """Every exporter."""
    return list(discover("llmc.export", Exporter).values())


def settings_of(exporter: type[Exporter]) -> list[str]:
    """The keys of `save` that are settings of this exporter."""
    return [name for name in exporter.model_fields if name != "name"]


def _save_config() -> type[SaveBase]:
    """`SaveBase` with a switch and the settings of every exporter; two exporters may share a setting if it is alike."""
    fields: dict[str, tuple[Any, FieldInfo]] = {}
    for cls in exporters():
        fields[cls.switch] = (StrictBool, FieldInfo(default=False, description=cls.summary()))
        for name in settings_of(cls):
            field = cls.model_fields[name]
            if name in fields and fields[name] != (field.annotation, field):
                raise TypeError(f"{cls.__name__} gives the setting {name} another meaning than another exporter does")
            fields[name] = (field.annotation, field)
    return create_model("SaveConfig", __base__=SaveBase, __doc__=SaveBase.__doc__, **fields)  # type: ignore[call-overload,no-any-return]


if TYPE_CHECKING:
    SaveConfig = SaveBase
else:
    SaveConfig = _save_config()
