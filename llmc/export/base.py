"""One target runtime: what it can store, and the tensors and files it reads."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from llmc.numerics.spec import LayerSpec, ScaleDtype
from llmc.plugin import Plugin

if TYPE_CHECKING:
    from llmc.layers.linear import QuantLinear

# who multiplies an input by a Scale: the rows of linears before it, an affine norm, a norm that time modulates, or
# nobody in the float network
Carrier = Literal["linear", "norm", "modulated norm", "nobody"]
EVERY_CARRIER: frozenset[Carrier] = frozenset({"linear", "norm", "modulated norm", "nobody"})


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
    provenance: Mapping[str, str]  # recipe, versions, fingerprint: goes into the files' metadata
    sampling: Mapping[str, Any]  # how the videos were judged: goes into ready runtime configurations


class Exporter(Plugin):
    """A target; `accepts` says what a recipe may leave on a layer, `carries` which Scales."""

    switch: ClassVar[str]  # the key of `save` that asks for it, such as save_lightx2v
    subfolder: ClassVar[str] = ""  # of save_path, where it writes
    accepts: ClassVar[frozenset[str]] = frozenset()  # of "scale", "rotate", "lowrank"
    scale_dtype: ClassVar[ScaleDtype] = "float32"  # weight scales are made exact in it before anything is rounded
    names: ClassVar[str | None] = None  # the adapter's table of renames that it writes by; None: diffusers' names

    def problems(self, spec: LayerSpec, left: frozenset[str]) -> list[str]:
        """Why this target cannot take such layers after methods that leave those things on them; empty if it can."""
        missing = left - {"rounded"} - self.accepts
        return [f"it cannot store what the methods leave on a layer: {', '.join(sorted(missing))}"] if missing else []

    def scheme_of(self, spec: LayerSpec) -> str | None:
        """What all layers must have in common, where the target has one scheme for all of them."""
        return None

    def carries(self, spec: LayerSpec) -> frozenset[Carrier]:
        """Who may multiply the input of such a layer: by default who leaves the float network's form as it is."""
        return frozenset({"linear", "norm"})

    @abstractmethod
    def write(self, part: FinishedPart, folder: Path) -> Path:
        """Write everything that the target reads of one part; returns the folder to give to it."""


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
