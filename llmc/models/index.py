"""What the folder of a pipeline says of itself, before anything of it is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, ClassVar

import torch

from llmc.errors import AdapterError
from llmc.files.header import read_header
from llmc.files.json_text import read_object, read_object_if_there
from llmc.files.words import some
from llmc.models.libraries import Loading

MODULAR = "modular_model_index.json"  # what diffusers writes of pipelines that exist as blocks alone


@dataclass(frozen=True)
class PipelineIndex:
    """What a folder's model_index.json says: the pipeline's class, the components that are there, and its settings."""

    folder: Path
    class_name: str
    components: Mapping[str, str]  # name -> class
    settings: Mapping[str, Any]
    files: Mapping[str, Path] = field(default_factory=dict)  # where components are that lie elsewhere than usual
    absent: frozenset[str] = frozenset()  # components that the pipeline could have, and this one does without
    is_release: ClassVar[bool] = False  # whether nothing lies as diffusers has it

    def config(self, component: str) -> Mapping[str, Any]:
        """The component's config.json; empty if it has none."""
        path = self.files.get(component, self.folder / component) / "config.json"
        return read_object_if_there(path, AdapterError) or {}

    def schedule(self) -> dict[str, float]:
        """What is said of the noise schedule: its shift, and where the high-noise expert hands over."""
        boundary = self.settings.get("boundary_ratio")
        return {"shift": self.shift()} | ({} if boundary is None else {"boundary": float(boundary)})

    def shift(self) -> float:
        """How far the schedule is shifted towards noise; 1 if nothing is said of it."""
        path = self.files.get("scheduler", self.folder / "scheduler") / "scheduler_config.json"
        with Loading(f"the schedule in {path}"):
            return shift_of(read_object_if_there(path, AdapterError) or {})

    def __str__(self) -> str:
        told = [name for name in sorted(self.components) if name.startswith("transformer_")]
        told += [f"{name} {value}" for name, value in self.settings.items() if value not in (None, False)]
        return f"{self.class_name}{' with ' if told else ''}{', '.join(told)}"


def read_index(folder: Path) -> PipelineIndex:
    """Of a diffusers folder, or of the folder of a lone network."""
    path = next((file for name in ("model_index.json", "config.json") if (file := folder / name).is_file()), None)
    if (folder / MODULAR).is_file() and (path is None or path.name == "config.json"):
        raise AdapterError(
            f"{folder} has {MODULAR}, which diffusers puts a pipeline together from block by block, and no "
            "model_index.json: no adapter runs those; take a model that was saved as a whole pipeline"
        )
    if path is None:
        inside = ", ".join(sorted(entry.name for entry in folder.iterdir())[:6]) if folder.is_dir() else "not a folder"
        raise AdapterError(
            f"{folder} has no model_index.json (found: {inside or 'nothing'}).\n"
            "  A model is a diffusers pipeline folder, with model_index.json beside transformer/, vae/ and the rest."
        )
    entries = read_object(path, AdapterError)
    class_name = entries.get("_class_name")
    if not isinstance(class_name, str):
        found = f"names {class_name!r} as its class" if "_class_name" in entries else "names no class of diffusers"
        raise AdapterError(f"{path} {found}; a model that diffusers saved names one: save the model again")
    if path.name == "config.json":
        return PipelineIndex(folder, class_name, {}, {})
    own = {name: value for name, value in entries.items() if not name.startswith("_")}
    listed = {name: value for name, value in own.items() if isinstance(value, list)}
    if odd := [name for name, value in listed.items() if not (name.isidentifier() and _is_component(value))]:
        raise AdapterError(
            f"{path} says of {some(odd)} neither library and class nor twice null, or it is no name; a component has "
            "just those: save the model again"
        )
    components = {name: value[1] for name, value in listed.items() if any(value)}
    settings = {name: value for name, value in own.items() if name not in listed}
    return PipelineIndex(folder, class_name, components, settings, absent=frozenset(listed.keys() - components.keys()))


def _is_component(value: list[Any]) -> bool:
    """Whether a list of model_index.json is a library and a class, or says that a component is absent."""
    return value == [None, None] or (len(value) == 2 and all(isinstance(word, str) and word for word in value))


def shift_of(scheduler: Mapping[str, Any]) -> float:
    """How far the schedule of a scheduler's configuration is shifted towards noise; 1 if it says nothing of it."""
    return float(scheduler.get("flow_shift") or scheduler.get("shift") or 1.0)


def stored_dtype(folder: Path) -> torch.dtype:
    """The type that most elements of a component's weights are stored in."""
    sizes: Counter[str] = Counter()
    for file in folder.glob("*.safetensors"):
        for tensor in read_header(file, AdapterError).tensors.values():
            sizes[tensor.dtype] += prod(tensor.shape)
    if not sizes:
        raise AdapterError(f"{folder} holds no *.safetensors file: save the model with safe_serialization")
    names = {"BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
    return names.get(sizes.most_common(1)[0][0], torch.float32)
