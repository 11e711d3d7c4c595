"""Tiny complete pipelines of real diffusers and transformers classes, random weights, nothing downloaded.

One file per family; each has `PIPELINES`, a row for every adapter of the family.
"""

from __future__ import annotations

import importlib
import pkgutil

from tests.tiny_pipelines.common import Tiny, save_samples
from tests.tiny_pipelines.wan import save_wan_i2v

TINY: Tiny = {}
for _module in pkgutil.iter_modules(__path__, "tests.tiny_pipelines."):
    TINY |= getattr(importlib.import_module(_module.name), "PIPELINES", {})

__all__ = ["TINY", "save_samples", "save_wan_i2v"]
