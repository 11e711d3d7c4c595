"""`llmc quant`: msModelSlim's options, as a configuration and what replaces values in it."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from llmc.config.family import adapter_for, model_names
from llmc.config.model import settings_of
from llmc.config.paths import resolve_input
from llmc.config.recipes import recipes_for
from llmc.config.words import choice
from llmc.errors import ConfigError
from llmc.models.base import adapters

REQUIRED = ("model_path", "save_path", "model_type")
AFTERWARDS = """layers.csv in the run folder has the error of each weight and, if the recipe saw data, of each output
to judge the model by its videos: the same again with `--eval`, or with a YAML that has an `eval` section"""


def recipe_of(options: argparse.Namespace, overrides: list[str]) -> tuple[Path, list[str]]:
    """The configuration that is meant, and everything that replaces values in it."""
    missing = [f"--{name}" for name in REQUIRED if getattr(options, name) is None]
    if missing:
        raise ConfigError(
            f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; give the folder of the float "
            f"model, the folder to write to, and what the model is: {', '.join(model_names())}"
        )
    if (options.quant_type is None) == (options.config_path is None):
        found = "both are" if options.quant_type else "neither is"
        raise ConfigError(
            f"--quant_type names a recipe that ships, --config_path a YAML of yours, and {found} given; give one"
        )
    if options.device is not None and re.fullmatch(r"(npu|cuda):\d+(,\d+)+", options.device):
        one = options.device.partition(",")[0]
        raise ConfigError(
            f"--device {options.device}: one process works on one device, as msModelSlim does for these models; "
            f"write `--device {one}`"
        )
    name = adapter_for(options.model_type, resolve_input(Path(options.model_path)))
    if options.trust_remote_code == "True" and "trust_remote_code" in settings_of(adapters()[name]):
        overrides = ["model.trust_remote_code=True", *overrides]
    if options.config_path is not None:
        return options.config_path, overrides
    recipes = recipes_for(name)
    kind = options.quant_type if options.quant_type in recipes else f"{options.quant_type}_dynamic"
    if kind not in recipes:
        there = choice(options.quant_type, recipes) if recipes else "none ships for it: write a YAML (--config_path)"
        raise ConfigError(f"--quant_type {options.quant_type}: no such recipe ships for {name}; {there}")
    return recipes[kind], [*([] if options.eval else ["eval=null"]), *overrides]
