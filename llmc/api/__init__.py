"""The Python interface: load a model, quantize it, judge it, export it, verify what was written; see docs/python.md."""

from llmc.api.model import Model, load
from llmc.api.quantizing import quantize
from llmc.api.recipe import recipes
from llmc.api.result import Result, Scores
from llmc.api.verifying import verify
from llmc.models.samples import Sample, Sampling

__all__ = ["Model", "Result", "Sample", "Sampling", "Scores", "load", "quantize", "recipes", "verify"]
