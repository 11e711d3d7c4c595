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
from llmc.errors import LlmcError, UnsupportedSpec
from llmc.export.base import Exporter, as_computed
from llmc.models.base import check_adapter
from llmc.numerics.spec import LayerSpec

MAX_HEADER_BYTES = 100_000_000  # of a safetensors file; its own limit


def check_config(config: Config) -> None:
    """Refuse what could not succeed, all of it at once, each with the line of its key."""
    problems = config_problems(config)
    if problems:
        raise problems_error(problems, config.source)


def config_problems(config: Config) -> list[Problem]:
    """Everything that is wrong outside of the file itself, in the order of its sections."""
    checks = (
        model_problems, samples_problems, sampling_problems, order_problems, target_problems, arithmetic_problems,
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
    for index, lora in enumerate(config.model.lora):
        yield from _missing(config, ("model", "lora", index, "path"), lora.path)


def samples_problems(config: Config) -> Iterator[Problem]:
    """Whether samples.json can be read, and every image it names is there."""
    needs_image = config.model.adapter().needs_image
    for key, samples in _sample_sections(config):
        if (samples.name == "i2v") != needs_image:
            wanted = "i2v: each sample needs a first frame" if needs_image else "t2v: it takes a prompt alone"
            yield Problem((key, "name"), f"it is {samples.name}; {config.model.type} is of the kind {wanted}")
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
        for sentence in adapter.check_sampling(samples.target_height, samples.target_width, samples.num_frames):
            name = sentence.split()[0]
            keys = (key, name) if name in type(samples).model_fields else (key,)
            yield Problem(keys, sentence.replace(f"{name} is", "it is", 1))


def order_problems(config: Config) -> Iterator[Problem]:
    """Whether each method finds the weights in a state that it can work on."""
    rounding: str | None = None
    for index, method in enumerate(config.recipe()):
        if rounding is not None and not method.works_on_rounded:
            text = f"{method.name} comes after {rounding}, which has rounded the weights; put {method.name} before it"
            yield Problem(("quant", "video_gen", "method", index), text)
        if "rounded" in method.leaves:
            rounding = method.name


def target_problems(config: Config) -> Iterator[Problem]:
    """Whether each target can store what the methods and grids leave."""
    left = frozenset[str]().union(*(method.leaves for method in config.recipe()))
    specs = _specs(config)
    if config.ignored_layers != IgnoredLayersConfig():
        specs.append((("ignored_layers",), LayerSpec()))
    exporters = [exporter for exporter, _ in config.save.targets()]
    for exporter in exporters:
        yield from _name_problems(config, exporter)
        schemes = [exporter.scheme_of(spec) for _, spec in specs]
        first = next((scheme for scheme in schemes if scheme is not None), None)
        for (keys, spec), scheme in zip(specs, schemes, strict=True):
            for sentence in exporter.problems(spec, left):
                yield Problem(keys, f"{exporter.name} was asked for in `save`, and {sentence}")
            if scheme not in (None, first):
                yield Problem(keys, f"{exporter.name} was asked for in `save`, and it has one scheme for all layers; "
                                    f"found {scheme} here and {first} above: give all layers one grid")  # fmt: skip
    for keys, spec in specs:
        try:
            as_computed(spec, exporters)
        except UnsupportedSpec as error:
            yield Problem(keys, str(error))


def _name_problems(config: Config, exporter: Exporter) -> Iterator[Problem]:
    tables = config.model.adapter().renames
    if exporter.names is not None and exporter.names not in tables:
        found = ", ".join(tables) or "none"
        text = f"{exporter.name} needs the names of {config.model.type} in its own repository, which are not known"
        yield Problem(("save", exporter.switch), f"{text} (tables of names: {found}); leave this target out")


def arithmetic_problems(config: Config) -> Iterator[Problem]:
    """Whether the device could multiply the codes that real_quant is to judge."""
    if config.eval is None or "real_quant" not in config.eval.eval_pos:
        return
    for keys, spec in _specs(config):
        if problem := spec.real_problem():
            yield Problem(keys, f"real_quant was asked for in `eval.eval_pos`, and {problem}")


def output_problems(config: Config) -> Iterator[Problem]:
    """Whether something else lies where the export is to be written."""
    keys: KeyPath = ("save", "save_path")
    path = config.save.save_path
    if path is None:
        return
    if path.exists() and not path.is_dir():
        yield Problem(keys, f"{path} is a file; name a folder")
        return
    if path.resolve() == config.model.path.resolve():
        yield Problem(keys, f"{path} is the folder of the float model; name another one")
        return
    for exporter, folder in config.save.targets():
        inside = _found_in(folder, {other.name for _, other in config.save.targets() if other.parent == folder})
        if inside and not config.save.overwrite and _written_for(folder) != config.fingerprint():
            yield Problem(
                keys, f"{folder} holds {inside}, which this configuration did not write; "
                "name another folder, or add `overwrite: True`"
            )  # fmt: skip
        elif (obstacle := exporter.obstacle(folder)) is not None:
            yield Problem(keys, obstacle)


def _specs(config: Config) -> list[tuple[KeyPath, LayerSpec]]:
    """Every grid that the quant section gives to layers, and where it does."""
    quant = config.quant.video_gen
    rules = [(("quant", "video_gen", "rules", index), quant.rule_spec(rule)) for index, rule in enumerate(quant.rules)]
    return [(("quant", "video_gen"), quant.default_spec()), *rules]


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
