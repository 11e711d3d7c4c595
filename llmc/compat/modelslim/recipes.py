"""The recipes for MindIE that ship, by model and by kind of quantization."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from llmc.compat.flat_save import save_by_target
from llmc.config.bases import on_its_bases
from llmc.config.document import read_document
from llmc.shipped import shipped

RECIPES = shipped() / "configs/quantization/video_gen"
PREFIX = "mindie_"


@cache
def recipes_for(adapter: str) -> Mapping[str, Path]:
    """Kind of quantization, such as w8a8_dynamic -> the recipe for this model."""
    return {
        path.stem.removeprefix(PREFIX): path
        for path in sorted(RECIPES.glob(f"*/{PREFIX}*.yaml"))
        if _values(path)["model"]["type"] == adapter and "tiny" not in path.parent.name
    }


def usual_calibration(adapter: str) -> dict[str, Any]:
    """How the recipes of this model run it, for the caller to change; empty where none ships."""
    paths = recipes_for(adapter)
    if not paths:
        return {}
    path = paths.get("w8a8_dynamic") or next(iter(paths.values()))
    section: dict[str, Any] = deepcopy(_values(path)["calib"])
    return section


@cache
def _values(recipe: Path) -> Mapping[str, Any]:
    return on_its_bases(read_document(recipe), save_by_target).values
