"""`llmc quant`: msModelSlim's options, as a configuration and what replaces values in it."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from llmc.compat.modelslim.recipes import recipes_for
from llmc.config.family import adapter_for, check_fits, family_names
from llmc.config.model import settings_of
from llmc.config.paths import input_of
from llmc.config.words import choice
from llmc.errors import ConfigError
from llmc.log import log
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
            f"model, the folder to write to, and what the model is: {', '.join(family_names())}"
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
    folder = input_of(options.model_path, "--model_path")
    if not folder.exists():
        raise ConfigError(f"--model_path {options.model_path} is not there; name the folder of the float model")
    name = adapter_for(options.model_type, folder, called="--model_type")
    check_fits(name, folder, called="--model_type")
    if options.trust_remote_code == "True":
        if "trust_remote_code" in settings_of(adapters()[name]):
            overrides = ["model.trust_remote_code=True", *overrides]
        else:
            log.info("--trust_remote_code True changes nothing: of %s no code of others is run", name)
    if options.config_path is not None:
        return options.config_path, overrides
    return recipe_named(options.quant_type, name), [*([] if options.eval else ["eval=null"]), *overrides]


def recipe_named(kind: str, adapter: str) -> Path:
    """The recipe that ships for the model; letter case does not count, and `w8a8` stands for `w8a8_dynamic`."""
    recipes = recipes_for(adapter)
    if not recipes:
        raise ConfigError(f"--quant_type {kind}: no recipe ships for {adapter}; write a YAML (--config_path)")
    named = {each.removesuffix("_dynamic"): path for each, path in recipes.items()} | dict(recipes)
    if (asked := kind.lower().replace("-", "_")) not in named:
        raise ConfigError(f"--quant_type {kind}: no such recipe ships for {adapter}; {choice(kind, sorted(named))}")
    return named[asked]
