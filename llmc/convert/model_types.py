"""The networks that can be converted, and which of them, in which direction, a checkpoint's names fit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias

from llmc.convert.names import Names
from llmc.convert.rows import Table
from llmc.convert.tables.clip import CLIP, CLIP_PREFIXED
from llmc.convert.tables.hunyuan import HUNYUAN, HUNYUAN_15
from llmc.convert.tables.qwen import QWEN
from llmc.convert.tables.t5 import T5, T5_SECOND, T5_TIED
from llmc.convert.tables.wan import WAN
from llmc.errors import ExportError
from llmc.models.wan_config import to_diffusers, to_original

# LightX2V's words: its own names are where one starts, so towards them is backward
Direction: TypeAlias = Literal["backward", "forward"]
DIRECTIONS: tuple[Direction, ...] = ("backward", "forward")
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
SHOWN = 3  # fitting model types in one message


def _as_it_is(config: Mapping[str, Any], *_: Shapes) -> dict[str, Any]:
    return dict(config)


@dataclass(frozen=True)
class ModelType:
    """One network: how its names and its config.json translate, and where it lies in a pipeline.

    There are several tables where releases differ; the first that knows every name of a checkpoint is its own.
    """

    name: str
    tables: Mapping[str, Table]
    folder: str = "transformer"
    config_backward: Callable[[Mapping[str, Any]], dict[str, Any]] = field(default=_as_it_is)
    config_forward: Callable[[Mapping[str, Any], Shapes], dict[str, Any]] = field(default=_as_it_is)

    @cached_property
    def namings(self) -> dict[str, Names]:
        return {label: Names(table) for label, table in self.tables.items()}

    def unknown(self, names: Iterable[str], direction: Direction) -> dict[str, list[str]]:
        """Naming -> the names that it does not know."""
        names = list(names)
        return {
            label: naming.not_ours(names) if direction == "backward" else naming.not_original(names)
            for label, naming in self.namings.items()
        }


MODEL_TYPES: Mapping[str, ModelType] = {
    model_type.name: model_type
    for model_type in (
        ModelType("wan_dit", {"wan": WAN}, config_backward=to_original, config_forward=to_diffusers),
        ModelType("hunyuan_dit", {"HunyuanVideo": HUNYUAN, "HunyuanVideo-1.5": HUNYUAN_15}),
        ModelType("qwen_image_dit", {"qwen": QWEN}),
        ModelType("wan_t5", {"shared": T5, "shared and encoder": T5_TIED, "encoder": T5_SECOND}, "text_encoder"),
        ModelType("wan_clip", {"plain": CLIP, "vision_model": CLIP_PREFIXED}, "image_encoder"),
    )
}


def naming_of(
    names: Iterable[str], model_type: ModelType, direction: Direction, preferred: str | None = None
) -> tuple[str, Names]:
    """The naming that a checkpoint is in, or what it is instead."""
    names = list(names)
    unknown = model_type.unknown(names, direction)
    fitting = [label for label, missing in unknown.items() if not missing]
    if fitting:
        label = preferred if preferred in fitting else fitting[0]
        return label, model_type.namings[label]
    if others := fitting_types(names):
        found = " or ".join(f"`-t {name} -d {way}`" for name, way in others[:SHOWN])
        reason = (
            f"they already have the names asked for; use them as they are, or go the other way with {found}"
            if others == [(model_type.name, _opposite(direction))]
            else f"they are those of another model type or direction; convert them with {found}"
        )
        missing = next(iter(unknown.values()))
        raise ExportError(
            f"the {len(names)} tensors, such as {missing[0]!r}, are not what `-t {model_type.name} -d {direction}` "
            f"reads: {reason}"
        )
    label = min(unknown, key=lambda label: len(unknown[label]))
    return label, model_type.namings[label]  # the table itself says which names it does not know


def fitting_types(names: Iterable[str]) -> list[tuple[str, Direction]]:
    """Every model type and direction that a checkpoint with these names can be converted with."""
    names = list(names)
    return [
        (model_type.name, direction)
        for model_type in MODEL_TYPES.values()
        for direction in DIRECTIONS
        if names and not all(model_type.unknown(names, direction).values())
    ]


def _opposite(direction: Direction) -> Direction:
    return "forward" if direction == "backward" else "backward"
