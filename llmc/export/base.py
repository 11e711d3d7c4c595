"""One target runtime: what it can store, and the tensors and files it reads."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from llmc.numerics.spec import LayerSpec, ScaleDtype
from llmc.plugin import Plugin

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
    provenance: Mapping[str, str]  # recipe, versions, fingerprint: goes into the files' metadata
    sampling: Mapping[str, Any]  # how the videos were judged: goes into ready runtime configurations
    section: str = "video_gen"  # of `quant`; another one for encoders
    others: tuple[str, ...] = ()  # names of the parts that are written beside this one
    folder: str = ""  # of the source, where this network lies; its name if left out
    config: Mapping[str, Any] | None = None  # the network's config.json, where it is not the one of diffusers


class Exporter(Plugin):
    """A target; `accepts` says what a recipe may leave on a layer, `online_scale` whether a Scale must find a fold."""

    switch: ClassVar[str]  # the key of `save` that asks for it, such as save_lightx2v
    subfolder: ClassVar[str] = ""  # of save_path, where it writes
    accepts: ClassVar[frozenset[str]] = frozenset()  # of "scale", "rotate", "lowrank"
    online_scale: ClassVar[bool] = False  # whether a Scale that nobody absorbs can be kept
    scale_dtype: ClassVar[ScaleDtype] = "float32"  # weight scales are made exact in it before anything is rounded
    encoders: ClassVar[frozenset[str] | None] = frozenset()  # the classes of encoders that it can write; None: any

    def problems(self, spec: LayerSpec, left: frozenset[str]) -> list[str]:
        """Why this target cannot take such layers after methods that leave those things on them; empty if it can."""
        missing = left - {"rounded"} - self.accepts
        return [f"it cannot store what the methods leave on a layer: {', '.join(sorted(missing))}"] if missing else []

    def encoder_problem(self, class_name: str) -> str | None:
        """Why this target cannot take an encoder of that class; None if it can."""
        if self.encoders is None or class_name in self.encoders:
            return None
        return f"of encoders it takes {', '.join(sorted(self.encoders)) or 'none'}, not {class_name}; leave it float"

    @abstractmethod
    def write(self, part: FinishedPart, folder: Path) -> Path:
        """Write everything that the target reads of one part; returns the folder to give to it."""

    def finish(self, parts: Sequence[FinishedPart], folder: Path) -> None:
        """Write what stands beside all parts, once they are there."""


def kept(tensor: torch.Tensor) -> LazyTensor:
    """A tensor that is there already."""
    return LazyTensor(tensor.dtype, tuple(tensor.shape), lambda: tensor.detach().cpu().contiguous())


def unquantized_tensors(part: FinishedPart) -> dict[str, torch.Tensor]:
    """The tensors of a part that no quantized layer owns, under their own names; of tied ones the first."""
    owned = {f"{name}.{leaf}" for name in part.layers for leaf in ("weight", "bias")}
    tied = {name for name, _ in part.module.named_parameters(remove_duplicate=False)}
    tied -= {name for name, _ in part.module.named_parameters()}
    return {name: tensor for name, tensor in part.module.state_dict().items() if name not in owned | tied}


def network_config(part: FinishedPart) -> dict[str, Any]:
    """The network's config.json, without where it was loaded from."""
    if part.config is not None:
        return dict(part.config)
    config: Any = part.module.config
    if part.section != "video_gen":  # transformers' own class
        return {**config.to_dict(), "architectures": [type(part.module).__name__]}
    own = {key: value for key, value in config.items() if key not in ("_name_or_path", "_use_default_values")}
    return {"_class_name": type(part.module).__name__, **own}
