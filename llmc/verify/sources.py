"""What an export is held against: the float model, and what a run says that it judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from llmc.errors import ExportError
from llmc.files.json_text import object_in, read_object_if_there
from llmc.verify.blueprint import Blueprint, draw
from llmc.verify.files import Entry, open_tensor_file, read_keys
from llmc.verify.judged import Judged, JudgedPart, read_judged
from llmc.verify.names import Expected, divided, expected_tensors
from llmc.verify.native_config import from_native
from llmc.verify.verdict import FLOAT, RUN, NotChecked

# keys of a run's `model` that name other weights of a part
OTHERS = ("transformer", "transformer_2", "text_encoder", "text_encoder_2", "text_encoder_3", "image_encoder")
# where a release of Wan2.2 has its two networks
RELEASED: Mapping[str, str] = {"transformer": "high_noise_model", "transformer_2": "low_noise_model"}


@dataclass(frozen=True)
class FloatNetwork:
    """A float network, by header; its tensors have the names of its class, or of its family's own repository."""

    entries: Mapping[str, Entry]
    blueprint: Blueprint | str

    def read(self, name: str) -> Tensor | None:
        """A tensor by the name that its class gives it, in float32; None if it is not there."""
        for own in (name, f"vision_model.{name}"):
            if own in self.entries:
                return self.entries[own].read().float()
        expected = self._original.get(name)
        if expected is None or expected.tensor not in self.entries:
            return None
        values = dict(divided(expected, self.entries[expected.tensor].read().float()))
        return values.get(name, values.get(name.removesuffix(".weight")))

    @cached_property
    def _original(self) -> dict[str, Expected]:
        """Where a release has the tensors of the network."""
        found = "" if isinstance(self.blueprint, str) else expected_tensors(self.blueprint, "original")
        if isinstance(found, str):
            return {}
        return {name: each for each in found for name in each.sources}


NO_FLOAT = NotChecked("no float model is at hand", FLOAT)


@dataclass(frozen=True)
class Sources:
    """Where the float model is, and what a run judged; each may be missing."""

    float_model: Path | None = None
    no_float: NotChecked = NO_FLOAT
    run: Judged | None = None
    replaced: frozenset[str] = frozenset()  # parts that the run read from elsewhere than the float model's folder

    def judged(self, part: str) -> JudgedPart | NotChecked | str:
        """What was judged of a part; a text says that the run has no such part."""
        if self.run is None:
            return NotChecked("no run is given", RUN)
        if part not in self.run.parts:
            return f"the run has no part {part}, only {', '.join(self.run.parts)}"
        if not self.run.whole:
            return NotChecked("the run kept digests of its rounded weights alone, as older versions did: run it again")
        return self.run.parts[part]

    def network(self, part: str) -> FloatNetwork | NotChecked:
        """The float network of a part, or why it is not known."""
        if self.float_model is None:
            return self.no_float
        if part in self.replaced:
            return NotChecked(f"the run read {part} from another checkpoint", FLOAT)
        found = open_float(self.float_model, part)
        return found or NotChecked(f"{self.float_model} holds no safetensors file of {part}", FLOAT)

    def drawn(self, part: str, own: Mapping[str, Any] | None) -> Blueprint | NotChecked:
        """What a network of that part consists of: as the run has it, else the float model, else the export itself."""
        judged = self.run.parts.get(part) if self.run is not None else None
        if judged is not None and judged.config:
            found = draw(judged.config, judged.family)
        else:
            config = float_config(self.float_model, part) or own
            found = draw(config) if config else "nothing says what the network consists of"
        return NotChecked(found, RUN) if isinstance(found, str) else found


def find_sources(float_model: Path | None, against: Path | None) -> Sources:
    """Read what the command line names; without a float model, the one that the run quantized."""
    if float_model is not None:
        _check_holds_weights(float_model)
    if against is None:
        return Sources(float_model)
    run = read_judged(against)
    model = object_in(read_object_if_there(against / "config.json", ExportError) or {}, "model")
    if float_model is None and model.get("lora"):
        why = NotChecked("the run merged a LoRA, so that the float model on disk is another")
        return Sources(None, why, run)
    named = model.get("path")
    path = Path(named) if isinstance(named, str) and named and "\0" not in named else None
    found = float_model or (path if path is not None and path.is_dir() else None)
    replaced = frozenset() if float_model else frozenset(name for name in OTHERS if model.get(name))
    why = NotChecked(f"the run's float model {path or 'has no name, and'} is not there", FLOAT)
    return Sources(found, why, run, replaced)


def _check_holds_weights(folder: Path) -> None:
    """Without weights nothing would be held against the model that was asked for, and the export would pass."""
    if not folder.is_dir():
        raise ExportError(f"--float {folder} is no folder; name the folder of the float model")
    if all(open_float(folder, part) is None for part in OTHERS):
        inside = ", ".join(sorted(file.name for file in folder.iterdir())[:6])
        raise ExportError(
            f"--float {folder} holds no weights (found: {inside or 'nothing'}); safetensors are looked for in it, and "
            f"below it in {', '.join((*OTHERS, *RELEASED.values()))}; name the folder of a pipeline, release or network"
        )


def open_float(folder: Path, part: str) -> FloatNetwork | None:
    """The network of that part of a pipeline folder or of a release, or the one that lies in the folder itself."""
    for place in places_of(folder, part):
        files = [open_tensor_file(file) for file in sorted(place.glob("*.safetensors"))]
        entries = {name: entry for file in files for name, entry in file.entries.items()}
        if entries:
            config = float_config(folder, part)
            return FloatNetwork(entries, draw(config) if config else "it has no config.json")
    return None


def float_config(folder: Path | None, part: str) -> dict[str, Any] | None:
    """The config.json of a float network in diffusers' words, if it can be read."""
    for place in () if folder is None else places_of(folder, part):
        config = read_keys(place / "config.json")
        if config is not None:
            files = [open_tensor_file(file) for file in sorted(place.glob("*.safetensors"))]
            shapes = {name: entry.shape for file in files for name, entry in file.entries.items()}
            return from_native(config, shapes) if "num_heads" in config else config
    return None


def places_of(folder: Path, part: str) -> tuple[Path, ...]:
    """Where the network of that part may lie in the folder of a float model."""
    return (folder / part, folder / RELEASED.get(part, part), folder)
