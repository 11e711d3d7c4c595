"""The float network that an export is of, as its own class builds it: names, shapes, and what a recipe may quantize.

Nothing is loaded: it stands on the meta device. This is the one file of this room that asks the model adapters. What a
network consists of is told by its class, and what its tensors are called elsewhere by the one table of its family:
lists that were kept here by hand had drifted from both. How bytes become values is read without what writes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from llmc.errors import AdapterError
from llmc.models.base import ModelAdapter, adapters
from llmc.models.networks import empty_network, unfilled_network
from llmc.models.parts import Part
from llmc.renames import Original

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Blueprint:
    """A network without weights, and the tables of what its tensors are called: `original` and those of targets."""

    part: Part
    tables: Mapping[str, Original]

    @cached_property
    def shapes(self) -> dict[str, Shape]:
        """Every tensor of the network, by its own name."""
        return {name: tuple(tensor.shape) for name, tensor in self.part.module.state_dict().items()}

    @cached_property
    def linears(self) -> dict[str, bool]:
        """The linears that a recipe may quantize, and whether something before can absorb a scale of their inputs."""
        found: dict[str, bool] = {}
        for name, block in self.part.blocks:
            for group in self.part.groups(block):
                found |= {f"{name}.{linear}": bool(group.fold) for linear in group.linears}
        return found

    @cached_property
    def absorbing(self) -> frozenset[str]:
        """Modules into which a scale of what reads them can be folded: linears, norms, and what modulates norms."""
        found: set[str] = set()
        for name, block in self.part.blocks:
            for group in self.part.groups(block):
                found |= {f"{name}.{fold if isinstance(fold, str) else fold.linear}" for fold in group.fold}
        return frozenset(found)

    @cached_property
    def attentions(self) -> dict[str, bool]:
        """What attends in its blocks, and whether to its own tokens."""
        found: dict[str, bool] = {}
        for name, block in self.part.blocks:
            found |= {f"{name}.{attention}": own for attention, own in self.part.attentions(block).items()}
        return found

    def empty(self) -> nn.Module:
        """Such a network to be filled; what is computed and never stored is there."""
        return unfilled_network(self.part.module)


def draw(config: Mapping[str, Any], family: str | None = None) -> Blueprint | str:
    """The network that a config.json describes, of a family that is named or told by its class, or why not."""
    name = config.get("_class_name")
    known = adapters()
    if family not in known:
        family = next((each for each, adapter in known.items() if name in (adapter.network, adapter.pipeline)), None)
    if family is None or name is None:
        return f"no family is known whose network is a {name}"
    try:
        return _drawn(known[family].model_validate({}), config)
    except AdapterError as error:
        return str(error)


def _drawn(family: ModelAdapter, config: Mapping[str, Any]) -> Blueprint:
    part = family.network_of(config) or family.part_of(empty_network(config))
    return Blueprint(part, {**family.renames, "original": family.original(part.module)})
