"""One target runtime: what it can store, and the tensors and files it reads."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from llmc.export.card import write_card
from llmc.export.manifest import write_manifest
from llmc.numerics.spec import LayerSpec, ScaleDtype
from llmc.plugin import Plugin, discover

if TYPE_CHECKING:
    from llmc.layers.linear import QuantLinear


@dataclass(frozen=True)
class LazyTensor:
    """A tensor of a checkpoint: its header at once, its values when they are written."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], torch.Tensor]


@dataclass(frozen=True)
class FinishedPart:
    """One network after calibration, and what an exporter may want to say about it."""

    name: str
    module: torch.nn.Module
    layers: Mapping[str, QuantLinear]
    renames: Mapping[str, tuple[tuple[str, str], ...]]  # target -> table, from the adapter
    source: Path  # the folder of the float pipeline
    provenance: Mapping[str, str]  # producer, recipe, fingerprint: goes into the files' metadata
    sampling: Mapping[str, Any]  # how the videos were judged: goes into ready runtime configurations
    others: tuple[str, ...] = ()  # names of the parts that are written beside this one
    errors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # of each layer that was measured
    versions: Mapping[str, str] = field(default_factory=dict)


class Exporter(Plugin):
    """A target; `accepts` says what a recipe may leave on a layer, `online_scale` whether a Scale must find a fold."""

    switch: ClassVar[str]  # the key of `save` that asks for it, such as save_lightx2v
    subfolder: ClassVar[str] = ""  # of save_path, where it writes
    accepts: ClassVar[frozenset[str]] = frozenset()  # of "scale", "rotate", "lowrank", "static"
    online_scale: ClassVar[bool] = False  # whether a Scale that nobody absorbs can be kept
    scale_dtype: ClassVar[ScaleDtype] = "float32"  # weight scales are made exact in it before anything is rounded

    def problems(self, spec: LayerSpec, left: frozenset[str]) -> list[str]:
        """Why this target cannot take such layers after methods that leave those things on them; empty if it can."""
        missing = left - {"rounded"} - self.accepts
        return [f"it cannot store what the methods leave on a layer: {', '.join(sorted(missing))}"] if missing else []

    def scheme_of(self, spec: LayerSpec) -> str | None:
        """What all layers must have in common, where the target has one scheme for all of them."""
        return None

    def multiples(self, spec: LayerSpec) -> tuple[int, int]:
        """What the in and out features of such a layer must be multiples of."""
        return 1, 1

    def obstacle(self, folder: Path) -> str | None:
        """What lies in `folder` that would spoil the export even if it may be overwritten."""
        return None

    def computed(self, spec: LayerSpec) -> LayerSpec:
        """The spec as this target computes with it; the fake-quant model computes the same."""
        if spec.weight is None:
            return spec
        return LayerSpec(weight=spec.weight.model_copy(update={"scale_dtype": self.scale_dtype}), act=spec.act)

    @abstractmethod
    def write(self, part: FinishedPart, folder: Path) -> Path:
        """Write everything that the target reads of one part; returns the folder to give to it."""

    def finish(self, parts: Sequence[FinishedPart], folder: Path) -> None:
        """Write what stands beside all parts, once they are there; the manifest comes last."""
        about, exporters = self.about(parts), discover("llmc.export", Exporter).values()
        write_card(folder, parts, self.name, about, self.usage(parts))
        write_manifest(folder, parts, self.name, about, frozenset(other.subfolder for other in exporters))

    def about(self, parts: Sequence[FinishedPart]) -> dict[str, str]:
        """What manifest and model card say of this export besides what they say of all."""
        return {}

    def usage(self, parts: Sequence[FinishedPart]) -> str:
        """How to run it, in Markdown: a part of the model card."""
        return ""


def kept(tensor: torch.Tensor) -> LazyTensor:
    """A tensor that is there already."""
    return LazyTensor(tensor.dtype, tuple(tensor.shape), lambda: tensor.detach().cpu().contiguous())


def unquantized_tensors(part: FinishedPart) -> dict[str, torch.Tensor]:
    """The tensors of a part that no quantized layer owns, under their own names."""
    owned = {f"{name}.{leaf}" for name in part.layers for leaf in ("weight", "bias")}
    return {name: tensor for name, tensor in part.module.state_dict().items() if name not in owned}


def network_config(part: FinishedPart) -> dict[str, Any]:
    """The network's config.json, without where it was loaded from."""
    config: Mapping[str, Any] = part.module.config  # type: ignore[assignment]
    own = {key: value for key, value in config.items() if key not in ("_name_or_path", "_use_default_values")}
    return {"_class_name": type(part.module).__name__, **own}
