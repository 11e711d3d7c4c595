"""What an export is held against: the float model, and what a run says that it judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from llmc.errors import ExportError
from llmc.files.json_text import object_in, read_object_if_there
from llmc.files.words import shown
from llmc.verify.files import Entry, open_tensor_file
from llmc.verify.wan import Expected, Linear

JUDGED = "weights.json"
# keys of a run's `model` that name other weights of a part
OTHERS = ("transformer", "transformer_2", "text_encoder", "text_encoder_2", "text_encoder_3", "image_encoder")


# where a release of Wan2.2 has its two networks
RELEASED: Mapping[str, str] = {"transformer": "high_noise_model", "transformer_2": "low_noise_model"}


@dataclass(frozen=True)
class Sources:
    """Where the float model is, and the digests of the judged weights; each may be missing."""

    float_model: Path | None = None
    why_no_float: str = "no float model is at hand: give --float PATH"
    judged: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # part -> linear -> sha256
    against: Path | None = None
    replaced: frozenset[str] = frozenset()  # parts that the run read from elsewhere than the float model's folder


@dataclass(frozen=True)
class FloatNetwork:
    """A float network, by header; it has diffusers' names or LightX2V's."""

    entries: Mapping[str, Entry]

    def read(self, expected: Expected, leaf: str = "") -> Tensor | None:
        """A tensor in float32, if it is there."""
        for name in (expected.diffusers, f"vision_model.{expected.diffusers}", expected.native):
            entry = self.entries.get(f"{name}.{leaf}" if leaf else name)
            if entry is not None:
                return entry.read().float()
        return None

    def read_weight(self, linear: Linear) -> Tensor | None:
        """The weight of a linear in float32: of one that is made of several, those below each other."""
        parts = [self.read(Expected(name, name, ()), "weight") for name, _ in linear.parts]
        there = [part for part in parts if part is not None and part.shape[1:] == linear.shape[1:] and part.dim()]
        return torch.cat(there) if len(there) == len(parts) else self.read(linear, "weight")


def find_sources(float_model: Path | None, against: Path | None) -> Sources:
    """Read what the command line names; without a float model, the one that the run quantized."""
    if float_model is not None:
        _check_holds_weights(float_model)
    if against is None:
        return Sources(float_model)
    judged = _judged(against)
    model = object_in(read_object_if_there(against / "config.json", ExportError) or {}, "model")
    if float_model is None and model.get("lora"):
        return Sources(None, "the run merged a LoRA, so that the float model on disk is another", judged, against)
    named = model.get("path")
    path = Path(named) if isinstance(named, str) and named and "\0" not in named else None
    found = float_model or (path if path is not None and path.is_dir() else None)
    replaced = frozenset() if float_model else frozenset(name for name in OTHERS if model.get(name))
    why = f"the run's float model {path or 'has no name, and'} is not there: give --float PATH"
    return Sources(found, why, judged, against, replaced)


def _judged(against: Path) -> dict[str, dict[str, str]]:
    """Part -> linear -> the digest of its weight."""
    judged = read_object_if_there(against / JUDGED, ExportError)
    if judged is None:
        raise ExportError(
            f"--against {against} has no {JUDGED}; a run writes it into its folder when it exports: name that folder, "
            "which `llmc run` prints at its end, or run it again"
        )
    for part, digests in judged.items():
        if not isinstance(digests, dict) or not all(isinstance(digest, str) for digest in digests.values()):
            raise ExportError(
                f"{judged.path} has no digests for {shown(part)}; a run writes one for each linear of a part: copy the "
                "file again, or run it again"
            )
    return judged


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
            return FloatNetwork(entries)
    return None


def places_of(folder: Path, part: str) -> tuple[Path, ...]:
    """Where the network of that part may lie in the folder of a float model."""
    return (folder / part, folder / RELEASED.get(part, part), folder)
