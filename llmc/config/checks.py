"""What can be known to fail before a model is loaded: inputs that are not there, sizes, outputs in the way, targets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from llmc.calib.samples import read_samples
from llmc.config.document import KeyPath
from llmc.config.explain import Problem, problems_error
from llmc.config.paths import input_candidates
from llmc.config.schema import Config, IgnoredLayersConfig, SamplesConfig
from llmc.errors import LlmcError
from llmc.models.base import check_adapter
from llmc.models.encoders import encoder_classes, known_class, section_of
from llmc.numerics.spec import LayerSpec

TASKS = {
    "i2v": "i2v: each sample needs a first frame",
    "t2v": "t2v: it takes a prompt alone",
    "t2i": "t2i: it makes an image of a prompt",
}
MAX_HEADER_BYTES = 100_000_000  # of a safetensors file; its own limit


def check_config(config: Config) -> None:
    """Refuse what could not succeed, all of it at once, each with the line of its key."""
    problems = config_problems(config)
    if problems:
        raise problems_error(problems, config.source)


def config_problems(config: Config) -> list[Problem]:
    """Everything that is wrong outside of the file itself, in the order of its sections."""
    checks = (
        model_problems, encoder_problems, samples_problems, sampling_problems, metric_problems, order_problems,
        target_problems,
        output_problems,
    )  # fmt: skip
    return [problem for check in checks for problem in check(config)]


def model_problems(config: Config) -> Iterator[Problem]:
    """Whether the folder holds a pipeline of the adapter's family, and the LoRAs are there."""
    yield from _missing(config, ("model", "path"), config.model.path)
    if config.model.path.exists():
        try:
            check_adapter(type(config.model.adapter()), config.model.path)
        except LlmcError as error:
            yield Problem(("model", "path"), str(error))
    if config.model.transformer is not None:
        yield from _missing(config, ("model", "transformer"), config.model.transformer)
    for index, lora in enumerate(config.model.lora):
        yield from _missing(config, ("model", "lora", index, "path"), lora.path)


def encoder_problems(config: Config) -> Iterator[Problem]:
    """Whether the pipeline has the encoders that are to be quantized or replaced, of classes whose layout is known."""
    for name, path in config.model.encoder_weights().items():
        yield from _missing(config, ("model", name), path)
    if not (config.model.path / "model_index.json").is_file():  # said already
        return
    classes = encoder_classes(config.model.path, config.model.adapter().encoders)
    for name in sorted(config.model.encoder_weights().keys() - classes.keys()):
        has = ", ".join(classes) or "no encoder at all"
        yield Problem(("model", name), f"the pipeline has {has}; leave model.{name} out")
    for section in config.quant.sections():
        mine = {name: found for name, found in classes.items() if section_of(name) == section}
        if section != "video_gen" and not mine:
            has = ", ".join(classes) or "no encoder at all"
            yield Problem(("quant", section), f"the pipeline has {has}; leave quant.{section} out")
        for name, found in mine.items():
            try:
                known_class(name, found)
            except LlmcError as error:
                yield Problem(("quant", section), str(error))
            for exporter, _ in config.save.targets():
                if (problem := exporter.encoder_problem(found)) is not None:
                    yield Problem(("quant", section), f"{exporter.name} was asked for in `save`, and {problem}")


def samples_problems(config: Config) -> Iterator[Problem]:
    """Whether samples.json can be read, and every image it names is there."""
    adapter = config.model.adapter()
    needs_image, task = adapter.needs_image, adapter.task()
    for key, samples in _sample_sections(config):
        if samples.name != task:
            yield Problem((key, "name"), f"it is {samples.name}; {config.model.type} is of the kind {TASKS[task]}")
        yield from _missing(config, (key, "path"), samples.path)
        if samples.path.exists():
            try:
                read_samples(samples.path, needs_image, samples.n_samples)
            except LlmcError as error:
                yield Problem((key, "path"), str(error))


def sampling_problems(config: Config) -> Iterator[Problem]:
    """Whether the model family can make videos of these sizes."""
    adapter = type(config.model.adapter())
    for key, samples in _sample_sections(config):
        if samples.num_frames is None and not adapter.makes_images:
            yield Problem((key, "num_frames"), "the key is missing; give the frames of the video")
            continue
        if samples.num_frames not in (None, 1) and adapter.makes_images:
            text = f"it is {samples.num_frames}; {config.model.type} makes images: leave it out"
            yield Problem((key, "num_frames"), text)
        for sentence in adapter.check_sampling(samples.target_height, samples.target_width, samples.num_frames or 1):
            name = sentence.split()[0]
            keys = (key, name) if name in type(samples).model_fields else (key,)
            yield Problem(keys, sentence.replace(f"{name} is", "it is", 1))


def metric_problems(config: Config) -> Iterator[Problem]:
    """Whether each metric that was asked for can tell of what the model makes."""
    if config.eval is None or not config.model.adapter().makes_images or "metrics" not in config.eval.model_fields_set:
        return
    for index, metric in enumerate(config.eval.metrics):
        if metric.least_frames > 1:
            text = f"{metric.name} compares videos, and {config.model.type} makes images: leave it out"
            yield Problem(("eval", "metrics", index), text)


def order_problems(config: Config) -> Iterator[Problem]:
    """Whether each method finds the weights in a state that it can work on."""
    for section in config.quant.sections():
        rounding: str | None = None
        for index, method in enumerate(config.recipe(section)):
            if rounding is not None and not method.works_on_rounded:
                text = (
                    f"{method.name} comes after {rounding}, which has rounded the weights; put {method.name} before it"
                )
                yield Problem(("quant", section, "method", index), text)
            if "rounded" in method.leaves:
                rounding = method.name


def target_problems(config: Config) -> Iterator[Problem]:
    """Whether each target can store what the methods and grids leave."""
    for section, quant in config.quant.sections().items():
        left = frozenset[str]().union(*(method.leaves for method in quant.method))
        specs: list[tuple[KeyPath, LayerSpec]] = [(("quant", section), quant.default_spec())]
        specs += [(("quant", section, "rules", index), quant.rule_spec(rule)) for index, rule in enumerate(quant.rules)]
        if section == "video_gen" and config.ignored_layers != IgnoredLayersConfig():
            specs.append((("ignored_layers",), LayerSpec()))
        for exporter, _ in config.save.targets():
            for keys, spec in specs:
                for sentence in exporter.problems(spec, left):
                    yield Problem(keys, f"{exporter.name} was asked for in `save`, and {sentence}")


def output_problems(config: Config) -> Iterator[Problem]:
    """Whether something else lies where the export is to be written."""
    keys: KeyPath = ("save", "save_path")
    path = config.save.save_path
    if path is None:
        return
    if path.exists() and not path.is_dir():
        yield Problem(keys, f"{path} is a file; name a folder")
    elif path.resolve() == config.model.path.resolve():
        yield Problem(keys, f"{path} is the folder of the float model; name another one")
    elif not config.save.overwrite:
        for _, folder in config.save.targets():
            inside = _found_in(folder, {other.name for _, other in config.save.targets() if other.parent == folder})
            if inside and _written_for(folder) != config.fingerprint():
                yield Problem(
                    keys, f"{folder} holds {inside}, which this configuration did not write; "
                    "name another folder, or add `overwrite: True`"
                )  # fmt: skip


def _sample_sections(config: Config) -> list[tuple[str, SamplesConfig]]:
    return [("calib", config.calib), *([("eval", config.eval)] if config.eval else [])]


def _missing(config: Config, keys: KeyPath, path: Path) -> Iterator[Problem]:
    if not path.exists():
        folder = config.source.path.parent if config.source else None
        looked = ", ".join(str(place) for place in input_candidates(path, folder) if place != path)
        yield Problem(
            keys, f"{path} does not exist{f' (looked for {looked})' if looked else ''}; put in a path that does"
        )


def _found_in(folder: Path, expected: set[str]) -> str:
    """The first few names in a folder."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.name not in expected) if folder.is_dir() else []
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _written_for(folder: Path) -> str | None:
    """The fingerprint in the metadata of a checkpoint; None if there is no checkpoint of ours."""
    for file in sorted(folder.rglob("*.safetensors")):
        with file.open("rb") as stream:
            size = int.from_bytes(stream.read(8), "little")
            try:
                header = json.loads(stream.read(size)) if size <= MAX_HEADER_BYTES else {}
            except (json.JSONDecodeError, UnicodeDecodeError):
                continue
        found: str | None = header.get("__metadata__", {}).get("fingerprint")
        if found is not None:  # files that were only linked there say nothing
            return found
    return None
