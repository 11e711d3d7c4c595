"""A section of ours that comes of the dialect."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from llmc.config.document import KeyPath
from llmc.config.explain import Problem


@dataclass
class Section:
    """Its values, the key of the dialect that each came from, what is wrong, and what a user should hear of."""

    values: dict[str, Any] = field(default_factory=dict)
    save: dict[str, Any] = field(default_factory=dict)  # what goes into `save` beside it
    sources: dict[KeyPath, KeyPath] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
