"""One target runtime: what it can store, and the tensors and files it reads."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

import torch

from llmc.export.card import write_card
from llmc.export.manifest import write_manifest
from llmc.export.part import FinishedPart
from llmc.layers.target import Carrier
from llmc.numerics.attention_spec import AttentionSpec
from llmc.numerics.spec import LayerSpec, ScaleDtype
from llmc.plugin import Plugin, discover
from llmc.renames import Original, Renames

if TYPE_CHECKING:
    from llmc.layers.transforms import Rotation

Linears: TypeAlias = "Mapping[str, tuple[LayerSpec, torch.nn.Linear]]"  # by name, and how each is to be quantized


class Exporter(Plugin):
    """A target; `accepts` says what a recipe may leave on a layer, `carries` which Scales."""

    switch: ClassVar[str] = ""  # what asks for it in a flat `save`; save_<name> if left out
    flat_names: ClassVar[Mapping[str, str]] = {}  # a setting of its own -> what a flat `save` calls it, if not the same
    subfolder: ClassVar[str] = ""  # of save.path, where it writes
    accepts: ClassVar[frozenset[str]] = frozenset()  # of "scale", "rotate", "lowrank", ..., as methods leave them
    scale_dtype: ClassVar[ScaleDtype] = "float32"  # what it keeps of scales: they are made exact in it first
    encoders: ClassVar[frozenset[str] | None] = frozenset()  # the classes of encoders that it can write; None: any
    # the adapter's table of renames that it writes by; None: it writes diffusers' names; `ORIGINAL`: by names and rows
    # of the network's own repository, where several layers can be one
    names: ClassVar[str | None] = None
    # why it cannot take a cross-attention beside others; None if it can
    no_cross_attention: ClassVar[str | None] = None

    @property
    def multiplier_dtype(self) -> ScaleDtype | None:
        """In which it keeps Scales, if it multiplies inputs at run time by all of them: then none is folded. None: it
        folds what it can."""
        return None

    @property
    def tells_sampling(self) -> bool:
        """Whether it also writes how videos are made, so that the run must know."""
        return False

    def problems(self, spec: LayerSpec, left: frozenset[str]) -> list[str]:
        """Why this target cannot take such layers after methods that leave those things on them; empty if it can."""
        missing = left - {"rounded"} - self.accepts
        return [f"it cannot store what the methods leave on a layer: {', '.join(sorted(missing))}"] if missing else []

    def attention_problem(self, spec: AttentionSpec) -> str | None:
        """Why this target cannot take attentions that are quantized so; None if it can."""
        return None if "attention" in self.accepts else "it cannot store how attention is quantized"

    def computed_attention(self, spec: AttentionSpec) -> AttentionSpec:
        """The spec as this target computes with it."""
        return spec

    def encoder_problem(self, class_name: str, spec: LayerSpec) -> str | None:
        """Why this target cannot take an encoder of that class, or such layers in it; None if it can."""
        if self.encoders is None or class_name in self.encoders:
            return None
        return f"of encoders it takes {', '.join(sorted(self.encoders)) or 'none'}, not {class_name}; leave it float"

    def for_encoders(self) -> Exporter:
        """As it treats encoders: what is asked of a spec is asked of this one."""
        return self

    def scheme_of(self, spec: LayerSpec) -> str | None:
        """What all layers must have in common, where the target has one scheme for all of them."""
        return None

    def multiples(self, spec: LayerSpec) -> tuple[int, int]:
        """What the in and out features of such a layer must be multiples of."""
        return 1, 1

    @classmethod
    def looks_at_layers(cls) -> bool:
        """Whether `layer_problems` says more than grids and sizes do."""
        return cls.layer_problems is not Exporter.layer_problems

    def layer_problems(self, linears: Linears, renames: Mapping[str, Renames], original: Original) -> list[str]:
        """Why this target cannot take these layers of one network; the tables of names are the adapter's."""
        return []

    def obstacle(self, folder: Path) -> str | None:
        """What lies in `folder` that would spoil the export even if it may be overwritten."""
        return None

    def source_problem(self, folder: Path, released: bool) -> str | None:
        """What it needs of the float model's folder and does not find there; None if nothing. `released`: nothing lies
        there as diffusers has it."""
        return None

    def schedule_problem(self, sampling: Mapping[str, Any]) -> str | None:
        """Why it cannot be started as the videos are judged; None if it can."""
        return None

    def computed(self, spec: LayerSpec) -> LayerSpec:
        """The spec as this target computes with it; the fake-quant model computes the same."""
        return spec.with_stored_scales(self.scale_dtype)

    def carries(self, spec: LayerSpec) -> frozenset[Carrier]:
        """Who may multiply the input of such a layer: by default who leaves the float network's form as it is."""
        return frozenset({"linear", "norm"})

    def rotation(self, spec: LayerSpec) -> Rotation:
        """Whether such a layer's input can be rotated at run time, or always is."""
        return "may" if self.accepts & {"rotate", "rotate_regular"} else "never"

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
