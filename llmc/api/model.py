"""The float model of a notebook: a folder whose weights are read as they are needed, or a pipeline that is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmc.config.family import adapter_for
from llmc.config.paths import input_of
from llmc.errors import ConfigError


@dataclass(frozen=True)
class Model:
    """A float model; nothing of it is loaded before it is quantized."""

    path: Path  # the folder where it lies
    family: str  # the adapter's name
    device: str = "auto"
    settings: Mapping[str, Any] | None = None  # other keys of the `model` section
    pipeline: Any = None  # loaded by somebody else; None: what lies in the folder

    def section(self) -> dict[str, Any]:
        """The `model` section of a configuration."""
        return {"type": self.family, "path": str(self.path), **(self.settings or {})}

    def __repr__(self) -> str:
        kind = f"a loaded {type(self.pipeline).__name__} of" if self.pipeline is not None else ""
        return f"<llmc.Model {self.family}: {kind} {self.path}>".replace(":  ", ": ")


def load(
    source: Any, family: str | None = None, folder: str | Path | None = None, device: str = "auto", **settings: Any
) -> Model:
    """A model by the folder of its pipeline, or a pipeline of diffusers that is loaded already.

    `family` is only needed where the folder does not tell it. `settings` are other keys of the `model` section, such as
    `torch_dtype`, `transformer` or `lora`. Of a loaded pipeline `folder` says where it lies, if it does not say so
    itself; a folder that is not there yet is written: targets copy configurations from it, and `verify` reads it.
    """
    if isinstance(source, str | Path):
        path = input_of(str(source), "llmc.load")
        return Model(path, adapter_for(family, path, "family"), device, settings)
    if not callable(getattr(source, "save_pretrained", None)) or not hasattr(source, "components"):
        raise ConfigError(
            f"llmc.load takes the folder of a pipeline, or a pipeline of diffusers; found {type(source).__name__}: of "
            "a lone network, give the pipeline that runs it"
        )
    if settings:
        raise ConfigError(
            f"{', '.join(settings)} can only be said of a folder, and the pipeline is loaded; leave it out"
        )
    path = _folder_of(source, folder)
    return Model(path, adapter_for(family, path, "family"), str(source.device), pipeline=source)


def _folder_of(pipeline: Any, folder: str | Path | None) -> Path:
    said = folder or dict(pipeline.config).get("_name_or_path")
    if said and (Path(said) / "model_index.json").is_file():
        return Path(said)
    if folder is None:
        raise ConfigError(
            f"the {type(pipeline).__name__} does not say in which folder it lies (found: {said or 'nothing'}); give "
            "llmc.load(pipeline, folder=...): if nothing lies there, the pipeline is saved to it"
        )
    pipeline.save_pretrained(folder)
    return Path(folder)
