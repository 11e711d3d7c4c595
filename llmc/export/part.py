"""A calibrated network as exporters are handed it, and what several of them read of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llmc.renames import Original
from llmc.section import Section

if TYPE_CHECKING:
    from llmc.layers.attention import QuantAttention
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
    section: Section = Section.VIDEO_GEN
    others: tuple[str, ...] = ()  # names of the parts that are written beside this one
    folder: str = ""  # of the source, where this network lies; its name if left out
    config: Mapping[str, Any] | None = None  # the network's config.json, where it is not the one of diffusers
    errors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # of each layer that was measured
    versions: Mapping[str, str] = field(default_factory=dict)
    attentions: Mapping[str, QuantAttention] = field(default_factory=dict)  # those that are quantized, and say how
    original: Original = ()  # names and rows in the repository that the network comes from, where they are known

    @property
    def is_denoiser(self) -> bool:
        """Whether the pipeline asks it in each step; encoders run before."""
        return self.section == Section.VIDEO_GEN


def kept(tensor: torch.Tensor) -> LazyTensor:
    """A tensor that is there already."""
    return LazyTensor(tensor.dtype, tuple(tensor.shape), lambda: tensor.detach().cpu().contiguous())


def unquantized_tensors(part: FinishedPart) -> dict[str, torch.Tensor]:
    """The tensors of a part that no quantized layer owns, under their own names; of tied ones the first."""
    owned = {f"{name}.{leaf}" for name in part.layers for leaf in ("weight", "bias")}
    tied = {name for name, _ in part.module.named_parameters(remove_duplicate=False)}
    tied -= {name for name, _ in part.module.named_parameters()}
    state = part.module.state_dict(keep_vars=True)  # what is lent comes when it is written
    return {name: tensor for name, tensor in state.items() if name not in owned | tied}


def network_config(part: FinishedPart) -> dict[str, Any]:
    """The network's config.json, without where it was loaded from."""
    if part.config is not None:
        return dict(part.config)
    config: Any = part.module.config
    if not part.is_denoiser:  # transformers' own class
        return {**config.to_dict(), "architectures": [type(part.module).__name__]}
    own = {key: value for key, value in config.items() if key not in ("_name_or_path", "_use_default_values")}
    return {"_class_name": type(part.module).__name__, **own}
