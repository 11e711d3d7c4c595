"""From what a notebook says to a configuration: the very one that a YAML file would give."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from llmc.api.model import Model
from llmc.api.samples import Asked, Samples, folder_of, keys_of, said_of
from llmc.compat.load import config_of, in_our_words, load_document
from llmc.config.document import Document
from llmc.config.samples import SamplesConfig
from llmc.config.save import exporters
from llmc.config.schema import Config
from llmc.config.words import choice
from llmc.errors import ConfigError
from llmc.models.base import adapters
from llmc.section import Section
from llmc.shipped import shipped

Recipe = str | Path | Mapping[str, Any]
Targets = Sequence[str] | Mapping[str, Mapping[str, Any]] | None  # names, or names and settings
SHIPPED = shipped() / "configs/quantization/video_gen"


def recipes() -> list[str]:
    """The names of all recipes that ship."""
    return sorted(path.relative_to(SHIPPED).with_suffix("").as_posix() for path in SHIPPED.glob("*/*.yaml"))


def document_of(recipe: Recipe, model: Model) -> Document:
    """What a recipe says, in the words of the YAML."""
    if isinstance(recipe, Mapping):
        return in_our_words(Document(Path("recipe"), _whole(deepcopy(dict(recipe))), {}))
    path = Path(recipe)
    if not path.exists():
        if str(recipe) not in recipes():
            near = get_close_matches(str(recipe), recipes(), n=3, cutoff=0.3)
            raise ConfigError(
                f"the recipe {recipe} is no file, and none that ships; such as {', '.join(near or recipes()[:3])}: "
                "llmc.recipes() has all of them"
            )
        path = SHIPPED / f"{recipe}.yaml"
    about = {"model.type": model.family, "model.path": str(model.path)}
    return load_document(path, [f"{key}={json.dumps(value)}" for key, value in about.items()])


def quantized_document(model: Model, recipe: Recipe, samples: Samples, sampling: Asked, targets: Targets) -> Document:
    """A recipe with all that was said beside it; what makes other videos than the recipe's leaves out its `eval`."""
    document = document_of(recipe, model)
    values = document.values
    values["model"] = model.section()
    values["base"] = {**(values.get("base") or {}), "device": model.device}
    if samples is not None or sampling is not None:
        usual: dict[str, Any] = {"name": adapters()[model.family].tasks()[0]}
        values["calib"] = usual | (values.get("calib") or {}) | keys_of(sampling, "calib")
        values.pop("eval", None)
    if targets is not None:
        values["save"] = targets_section(targets)
    return document


def targets_section(targets: Targets) -> dict[str, Any]:
    """The `save` section that asks for targets, without the folder."""
    named = targets if isinstance(targets, Mapping) else {name: {} for name in targets or ()}
    for name in named:
        if name not in exporters():
            raise ConfigError(f"there is no target {name}; {choice(name, exporters())}")
    return {name: dict(settings) for name, settings in named.items()}


def in_folder(document: Document, samples: Samples, run_dir: str | Path | None) -> Config:
    """The configuration of a run in a folder: by default one that is named by all that was said."""
    values = document.values
    if run_dir is None:
        said = json.dumps([values, said_of(samples)], sort_keys=True, default=str)
        run_dir = Path("runs") / f"{document.path.stem}-{hashlib.sha256(said.encode()).hexdigest()[:8]}"
    values["base"]["run_dir"] = str(run_dir)
    if (folder := folder_of(samples, Path(run_dir) / "samples")) is not None:
        values["calib"]["path"] = str(folder)
    save = {key: value for key, value in (values.get("save") or {}).items() if key not in ("path", "save_path")}
    values["save"] = {**save, "path": str(Path(run_dir) / "export"), "overwrite": True}
    return config_of(in_our_words(document))


def exported(document: Document, target: str, settings: Mapping[str, Any], path: str | Path | None) -> Config:
    """The configuration of the same run that writes one target."""
    section = targets_section({target: settings})
    if path is None:
        section["overwrite"] = True
        path = Path(document.values["base"]["run_dir"]) / "export"
    return config_of(in_our_words(_with(document, save={**section, "path": str(path)})))


def judged(document: Document, samples: Samples, sampling: Asked, said: Mapping[str, Any]) -> Config:
    """The configuration of the same run that also judges; what is left out is as the recipe judges, or calibrates."""
    calib, section = document.values.get("calib") or {}, document.values.get("eval")
    if section is None:
        section = {key: value for key, value in calib.items() if key in SamplesConfig.model_fields}
        section |= {"steps": calib.get("sample_steps"), "seeds": None if calib.get("seed") is None else [calib["seed"]]}
    folder = folder_of(samples, Path(document.values["base"]["run_dir"]) / "eval_samples")
    path = {} if folder is None else {"path": str(folder)}
    given = {
        key: list(value) if isinstance(value, tuple) else value for key, value in said.items() if value is not None
    }
    return config_of(_with(document, eval=section | keys_of(sampling, "eval") | path | given))


def _with(document: Document, **sections: Any) -> Document:
    return replace(document, values={**deepcopy(document.values), **sections})


def _whole(recipe: dict[str, Any]) -> dict[str, Any]:
    """A configuration, of which only the `quant` section, or what it says of the denoising networks, may be given."""
    if "quant" in recipe:
        return recipe
    return {"quant": recipe if any(section in recipe for section in Section) else {Section.VIDEO_GEN.value: recipe}}
