"""Quantize a model from a notebook."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmc.api.model import Model, load
from llmc.api.recipe import Recipe, Targets, in_folder, quantized_document
from llmc.api.result import Result, at_work
from llmc.api.samples import Asked, Samples
from llmc.checks.configuration import check_config
from llmc.ledger.usage import counting
from llmc.models.base import check_adapter
from llmc.run import start


def quantize(
    model: Model | str | Path | Any,
    recipe: Recipe,
    samples: Samples = None,
    sampling: Asked = None,
    targets: Targets = None,
    run_dir: str | Path | None = None,
) -> Result:
    """Quantize every block of a model by a recipe, on what it is called with while it makes videos of the samples.

    `recipe` is the path of a YAML, the name of one that ships (`llmc.recipes()`), or a dictionary: a whole
    configuration, its `quant` section, or what `quant.video_gen` says. `samples` are a folder, or a list of prompts;
    `sampling` says how their videos are made. `targets` are those that will be exported to: what they cannot carry is
    not done, or refused now. What is left out is as the recipe says. All lies in `run_dir`, where a call that was cut
    off goes on.
    """
    model = model if isinstance(model, Model) else load(model)
    document = quantized_document(model, recipe, samples, sampling, targets)
    config = in_folder(document, samples, run_dir)
    check_config(config)
    check_adapter(type(config.model.adapter()), config.model.path)
    with at_work(config) as folder:
        started = start(config, folder, model.pipeline, runs=True)
        with counting(started.networks, folder.note_forward):
            coverage = started.calibrate()
    return Result(document, started, coverage)
