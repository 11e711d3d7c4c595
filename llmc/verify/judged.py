"""What a run says that it judged: the digest of every tensor, the settings, and a witness of each network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmc.errors import ExportError
from llmc.files.json_text import FileObject, object_in, read_object_if_there
from llmc.files.regular import is_inside
from llmc.files.words import shown
from llmc.verify.files import open_tensor_file, tensor_digest

JUDGED, WEIGHTS = "judged.json", "weights.json"
Digests = Mapping[str, str]  # type of a file -> sha256 of the values in it; a type without one has float32's


@dataclass(frozen=True)
class Witness:
    """A call of a network, what the float network makes of it and what was judged, and how far off is no fault."""

    call: Mapping[str, Any]
    float_output: Tensor
    judged_output: Tensor
    step: int
    limit: float


@dataclass(frozen=True)
class JudgedPart:
    """One network of a run."""

    name: str
    folder: Path
    weights: Mapping[str, str]  # linear -> sha256 of its dequantized weight
    said: Mapping[str, Any]

    @property
    def family(self) -> str:
        """The name of its adapter."""
        return str(self.said.get("family"))

    @property
    def config(self) -> dict[str, Any]:
        """Its config.json, as the float network has it."""
        return object_in(self.said, "config")

    @property
    def layers(self) -> dict[str, Any]:
        """The grids of each linear."""
        return object_in(self.said, "layers")

    @property
    def attentions(self) -> dict[str, Any]:
        """How each attention is quantized; None: it was left float."""
        return object_in(self.said, "attentions")

    @property
    def tensors(self) -> dict[str, Any]:
        """The digests of everything but rounded weights."""
        return object_in(self.said, "tensors")

    def is_judged(self, name: str, value: Tensor, folded: bool) -> bool:
        """Whether a tensor has the values that were judged, as a file of its type keeps them; `folded`: with what was
        smoothed in it."""
        known = object_in(object_in(self.said, "folded"), name) if folded else {}
        known = known or object_in(self.tensors, name)
        kept = known.get(str(value.dtype).removeprefix("torch."), known.get("float32"))
        return tensor_digest(value) == kept

    def dtype(self, name: str) -> torch.dtype:
        """The type in which the network keeps a tensor."""
        found = getattr(torch, str(object_in(self.tensors, name).get("dtype")), None)
        return found if isinstance(found, torch.dtype) else torch.float32

    def witness(self) -> Witness | str:
        """Its witness, or why it has none."""
        said = object_in(self.said, "witness")
        name, step, limit = said.get("file"), said.get("step"), said.get("limit")
        if not isinstance(name, str) or not isinstance(step, int) or not isinstance(limit, float) or step < 0:
            return str(said.get("why_not") or "the run wrote none")
        if not is_inside(name):
            return f"{JUDGED} names {shown(name)}, which is no file of the run"
        file = open_tensor_file(self.folder / name)
        if file.problem or not {"float", "judged"} <= file.entries.keys():
            return file.problem or f"{name} does not hold what it should"
        given = {key.removeprefix("inputs."): entry.read() for key, entry in file.entries.items() if "." in key}
        of_float, judged = file.entries["float"].read().float(), file.entries["judged"].read().float()
        return Witness(_nested(given), of_float, judged, step, limit)


@dataclass(frozen=True)
class Judged:
    """Everything that a run keeps to be verified against."""

    folder: Path
    parts: Mapping[str, JudgedPart]
    sampling: Mapping[str, Any]  # how its videos were made
    components: Mapping[str, str]  # files of the float model that an export has beside -> sha256
    whole: bool  # whether it kept more than digests of weights, as runs of this version do


def read_judged(folder: Path) -> Judged:
    """What lies in the folder of a run; refused if it is none."""
    weights = read_object_if_there(folder / WEIGHTS, ExportError)
    if weights is None:
        raise ExportError(
            f"--against {folder} has no {WEIGHTS}; a run writes it into its folder when it exports: name that folder, "
            "which `llmc run` prints at its end, or run it again"
        )
    _check_digests(weights)
    said = read_object_if_there(folder / JUDGED, ExportError)
    of_parts = object_in(said or {}, "parts")
    parts = {name: JudgedPart(name, folder, digests, object_in(of_parts, name)) for name, digests in weights.items()}
    components = object_in(said or {}, "components")
    return Judged(folder, parts, object_in(said or {}, "sampling"), components, said is not None)


def _check_digests(weights: FileObject) -> None:
    for part, digests in weights.items():
        if not isinstance(digests, dict) or not all(isinstance(digest, str) for digest in digests.values()):
            raise ExportError(
                f"{weights.path} has no digests for {shown(part)}; a run writes one for each linear of a part: copy "
                "the file again, or run it again"
            )


def _nested(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Tensors by name; those whose names go on with places are in tuples."""
    found: dict[str, Any] = {}
    inner: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        first, _, rest = name.partition(".")
        if rest:
            inner.setdefault(first, {})[rest] = tensor
        else:
            found[first] = tensor
    for name, below in inner.items():
        within = _nested(below)
        found[name] = tuple(within[place] for place in sorted(within, key=lambda place: (len(place), place)))
    return found
