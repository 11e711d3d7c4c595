"""Quantize video-generation models, judge them by the videos they make, export what was judged."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmc.api import Model, Result, Sample, Sampling, Scores, load, quantize, recipes
    from llmc.errors import LlmcError

__version__ = "0.1.0"
__all__ = ["LlmcError", "Model", "Result", "Sample", "Sampling", "Scores", "load", "quantize", "recipes", "verify"]


def __getattr__(name: str) -> Any:
    """The Python interface, imported when it is first used: `import llmc` is free."""
    if name == "verify":  # a room whose name is that of the function: calling it calls the function
        return import_module("llmc.verify")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("llmc.errors" if name == "LlmcError" else "llmc.api"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
