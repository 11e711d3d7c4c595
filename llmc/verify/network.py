"""One network of an export, opened: tensors by name, and what they are of the float network."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from llmc.numerics.spec import TensorSpec
from llmc.verify.blueprint import Blueprint
from llmc.verify.files import Entry, TensorFile
from llmc.verify.manifest import Manifest
from llmc.verify.names import Expected, Linear, expected_tensors
from llmc.verify.sources import Sources
from llmc.verify.storage import FLOATS, Reading
from llmc.verify.verdict import NotChecked

EXPERTS = {"high_noise_model": "transformer", "low_noise_model": "transformer_2"}  # folder -> part of the pipeline
Held = Iterator[tuple[str, str, Tensor]]  # what judged it has, where it lies in the file, its values


@dataclass(frozen=True)
class Network:
    """One checkpoint. Only headers are read until values are asked for."""

    folder: Path
    label: str  # its folder or file below the export; empty for the export's own
    files: tuple[TensorFile, ...]
    config: Mapping[str, Any] | None
    part: str  # what a run calls it
    sources: Sources
    naming: str | None  # whose names it has: a key of the family's tables; None: those of the float network
    folds: ClassVar[bool] = True  # whether its float tensors have absorbed what was smoothed

    @property
    def unreadable(self) -> NotChecked | None:
        """Why no more than its files can be judged; None if all of them can be read."""
        bad = any(file.problem for file in self.files) or not self.files
        return NotChecked("a file cannot be read") if bad else None

    @cached_property
    def entries(self) -> Mapping[str, Entry]:
        """Every tensor; of those that lie in several files the first."""
        found: dict[str, Entry] = {}
        for file in self.files:
            for name, entry in file.entries.items():
                found.setdefault(name, entry)
        return found

    @cached_property
    def drawn(self) -> Blueprint | NotChecked:
        """The float network that it is of."""
        return self.sources.drawn(self.part, self.own_config())

    def own_config(self) -> Mapping[str, Any] | None:
        """The config.json that it brings, in diffusers' words."""
        return self.config

    @cached_property
    def expected(self) -> tuple[Expected, ...] | NotChecked:
        """Everything that the float network has, as this file names it."""
        if isinstance(self.drawn, NotChecked):
            return self.drawn
        found = expected_tensors(self.drawn, self.naming)
        return NotChecked(found) if isinstance(found, str) else found

    @property
    def unknown(self) -> NotChecked | None:
        """Why its tensors cannot be told from one another; None if they can."""
        return self.unreadable or (self.expected if isinstance(self.expected, NotChecked) else None)

    @cached_property
    def everything(self) -> tuple[Expected, ...]:
        """The tensors of the float network; none where it is not known."""
        return () if isinstance(self.expected, NotChecked) else self.expected

    @cached_property
    def linears(self) -> tuple[Linear, ...]:
        """The linears that a recipe may quantize."""
        return tuple(each for each in self.everything if isinstance(each, Linear))

    @cached_property
    def float_tensors(self) -> tuple[Expected, ...]:
        """Everything else."""
        return tuple(each for each in self.everything if not isinstance(each, Linear))

    def may_be_smoothed(self, module: str) -> bool:
        """Whether a module of the float network can have absorbed a smoothing, or reads what was smoothed."""
        drawn = self.drawn
        return not isinstance(drawn, NotChecked) and (module in drawn.absorbing or drawn.linears.get(module, False))

    def find(self, expected: Expected) -> Entry | None:
        """A float tensor, or the weight of a linear, where it lies."""
        return self.entries.get(expected.tensor)

    def quantized(self, linear: Linear) -> bool:
        """Whether codes are stored of it."""
        entry = self.find(linear)
        return entry is not None and entry.dtype not in FLOATS

    @abstractmethod
    def sound(self) -> Iterator[tuple[Linear, Mapping[str, Entry]]]:
        """The quantized linears whose tensors are all there, in types and shapes that can be read."""

    @abstractmethod
    def readings(self, linear: Linear, entries: Mapping[str, Entry]) -> Iterator[Reading]:
        """Its weight in float32, (out, in); the first is as the runtime reads it, the others are faults with a name."""

    def float_readings(self, linear: Linear, entries: Mapping[str, Entry]) -> Iterator[Reading]:
        """The readings in the basis of the float network, where inputs are rotated at run time."""
        return self.readings(linear, entries)

    def tells(self, linear: Linear, entries: Mapping[str, Entry]) -> bool:
        """Whether the weight can be read from it to the bit."""
        return True

    def multiplier(self, linear: Linear) -> Entry | None:
        """By what its input is multiplied at run time, if anything."""
        return None

    @abstractmethod
    def act(self, linear: Linear) -> TensorSpec | None:
        """How the runtime quantizes its input."""

    def grids(self, linear: Linear, entries: Mapping[str, Entry]) -> Mapping[str, Tensor]:
        """What is stored of the grid of its input: act_scale, act_zero, act_whole, steps_scale, steps_zero."""
        return {}

    def attending(self, module: nn.Module) -> AbstractContextManager[object]:
        """While it runs, attentions of a module compute as the runtime does."""
        return nullcontext()

    def attention_tensors(self) -> Held:
        """What is stored of quantized attentions."""
        return iter(())


@dataclass(frozen=True)
class Export:
    """The folder that a runtime is pointed at."""

    folder: Path
    manifest: Manifest | None
    networks: tuple[Network, ...]
    sources: Sources


def folder_of(path: Path) -> Path:
    """The folder of an export, which may be given by a file in it."""
    return path if path.is_dir() else path.parent


def network_folders(folder: Path) -> list[Path]:
    """The folder itself, or those of two experts."""
    experts = [folder / name for name in EXPERTS if any((folder / name).glob("*.safetensors"))]
    return experts if experts and not any(folder.glob("*.safetensors")) else [folder]
