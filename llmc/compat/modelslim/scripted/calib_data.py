"""Calibration data that know which model they were dumped from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, SupportsIndex, overload

from torch import nn

Origin = Mapping[str, str]  # the class of a model, and its settings as JSON
CLASS = "class"  # which no setting is called


class CalibData(list[Any]):
    """Calls that were dumped; a slice of them still knows their model."""

    def __init__(self, calls: Sequence[Any], origin: Origin) -> None:
        super().__init__(calls)
        self.origin = origin

    @overload
    def __getitem__(self, index: SupportsIndex) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> CalibData: ...
    def __getitem__(self, index: SupportsIndex | slice) -> Any:
        found = super().__getitem__(index)
        return CalibData(found, self.origin) if isinstance(index, slice) else found


def origin_of(model: nn.Module) -> dict[str, str]:
    """What tells a model from others; where it was loaded from, and by which diffusers, does not."""
    settings = {key: value for key, value in dict(getattr(model, "config", {})).items() if not key.startswith("_")}
    return {CLASS: type(model).__name__} | {key: json.dumps(value, default=str) for key, value in settings.items()}
