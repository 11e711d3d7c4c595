"""What can be known to fail before a model is loaded: inputs that are not there, sizes, outputs in the way, targets."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from llmc.config.document import KeyPath
from llmc.config.explain import Problem, problems_error
from llmc.config.paths import input_candidates
from llmc.config.quant import NetworkConfig
from llmc.config.schema import Config, IgnoredLayersConfig, SamplesConfig
from llmc.config.words import choice
from llmc.errors import LlmcError, UnsupportedSpec
from llmc.export.base import ORIGINAL, Exporter, as_computed
from llmc.models.base import adapters, check_adapter
from llmc.models.encoders import encoder_classes, known_class, section_of
from llmc.models.folder import file_header, folder_problems
from llmc.numerics.spec import LayerSpec

TASKS = {
    "i2v": "i2v: each sample needs an image",
    "t2v": "t2v: it takes a prompt alone",
    "t2i": "t2i: it makes an image of a prompt",
}
# field of Sampling -> its key in the configuration
SCHEDULE = {
    "guidance_scale_2": "guidance_scale_2",
    "shift": "sample_shift",
    "denoising_step_list": "denoising_step_list",
}
# field of Sampling -> its key in `eval`: what says which step has which noise
EVAL_SCHEDULE = {"steps": "steps", "shift": "sample_shift", "denoising_step_list": "denoising_step_list"}
CHANGES_ACTS = frozenset({"scale", "rotate", "static"})  # what methods leave that changes how acts are rounded


def check_config(config: Config) -> None:
    """Refuse what could not succeed, all of it at once, each with the line of its key."""
    problems = config_problems(config)
    if problems:
        raise problems_error(problems, config.source)


def config_problems(config: Config) -> list[Problem]:
    """Everything that is wrong outside of the file itself, in the order of its sections."""
    checks = (
        model_problems, encoder_problems, samples_problems, sampling_problems, metric_problems, order_problems,
        per_step_problems, target_problems, attention_problems, arithmetic_problems,
        output_problems,
    )  # fmt: skip
    return [problem for check in checks for problem in check(config)]


def model_problems(config: Config) -> Iterator[Problem]:
    """Whether the folder holds a pipeline of the adapter's family, and everything that joins it is there."""
    adapter = config.model.adapter()
    components: Mapping[str, str] | None = None
    for key, place in adapter.sources(config.model.path).items():
        yield from _missing(config, ("model", key), place)
    if config.model.path.exists():
        try:
            check_adapter(type(adapter), config.model.path)
            pipeline = adapter.index(config.model.path)
            components = pipeline.components
            for problem in folder_problems(pipeline, config.model.networks()):
                yield Problem(("model", "path"), problem)
        except LlmcError as error:
            yield Problem(("model", "path"), str(error))
    for name, path in config.model.networks().items():
        keys: KeyPath = ("model", name)
        yield from _missing(config, keys, path)
        if name not in adapter.networks:
            able = ", ".join(other for other, cls in adapters().items() if name in cls.networks)
            yield Problem(keys, f"{config.model.type} reads its folder alone; leave it out (it is for {able})")
        elif components is not None and name not in components:
            yield Problem(keys, f"{config.model.path} has no {name} that it could stand in for; leave it out")
    for index, lora in enumerate(config.model.lora):
        yield from _missing(config, ("model", "lora", index, "path"), lora.path)
        if components and lora.part is not None and lora.part not in components:
            text = f"it is {lora.part}; the model has no such network: {choice(lora.part, sorted(components))}"
            yield Problem(("model", "lora", index, "part"), text)


def encoder_problems(config: Config) -> Iterator[Problem]:
    """Whether the pipeline has the encoders that are to be quantized or replaced, of classes whose layout is known."""
    adapter = config.model.adapter()
    for name, path in config.model.encoder_weights().items():
        yield from _missing(config, ("model", name), path)
    try:
        classes = encoder_classes(adapter.index(config.model.path), adapter.encoders)
    except LlmcError:  # said already
        return
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
                spec = config.quant.sections()[section].default_spec()
                if (problem := exporter.encoder_problem(found, spec)) is not None:
                    yield Problem(("quant", section), f"{exporter.name} was asked for in `save`, and {problem}")


def samples_problems(config: Config) -> Iterator[Problem]:
    """Whether samples.json can be read, and every image it names is there."""
    adapter = config.model.adapter()
    for key, samples in _sample_sections(config):
        if samples.name not in adapter.tasks():
            wanted = " or ".join(TASKS[task] for task in adapter.tasks())
            yield Problem((key, "name"), f"it is {samples.name}; {config.model.type} is of the kind {wanted}")
            continue
        yield from _missing(config, (key, "path"), samples.path)
        if samples.path.exists():
            try:
                samples.samples(adapter)
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
        for field, name in SCHEDULE.items():
            if getattr(samples, name) is not None and field not in adapter.optional:
                able = [other for other, cls in adapters().items() if field in cls.optional]
                yield Problem(
                    (key, name), f"{config.model.type} does not read it; leave it out (it is for {', '.join(able)})"
                )
        if samples.guidance_scale_2 is not None and (samples.guidance_scale_2 > 1) != (samples.guidance_scale > 1):
            text = (
                f"it is {samples.guidance_scale_2:g} beside guidance_scale {samples.guidance_scale:g}; guidance is on "
            )
            yield Problem(
                (key, "guidance_scale_2"), text + "for both experts or for none: put both above 1, or leave it out"
            )
    yield from step_problems(config)


def step_problems(config: Config) -> Iterator[Problem]:
    """Whether the number of steps is that of the list of a distilled model."""
    given = [("calib", "sample_steps", config.calib.sample_steps, config.calib.denoising_step_list)]
    if config.eval is not None:
        listed = config.eval.denoising_step_list or config.calib.denoising_step_list
        given.append(("eval", "steps", config.eval.steps or 0, listed))
    for section, key, steps, listed in given:
        if listed and steps and steps != len(listed):
            yield Problem(
                (section, key), f"it is {steps}, but denoising_step_list has {len(listed)}; write {len(listed)}"
            )


def metric_problems(config: Config) -> Iterator[Problem]:
    """Whether each metric that was asked for can tell of what the model makes."""
    if config.eval is None or not config.model.adapter().makes_images or "metrics" not in config.eval.model_fields_set:
        return
    for index, metric in enumerate(config.eval.metrics):
        if metric.least_frames > 1:
            text = f"{metric.name} compares videos, and {config.model.type} makes images: leave it out"
            yield Problem(("eval", "metrics", index), text)


def order_problems(config: Config) -> Iterator[Problem]:
    """Whether each method finds the weights and the acts in a state that it can work on."""
    for section in config.quant.sections():
        rounding: str | None = None
        fixing: str | None = None
        for index, method in enumerate(config.recipe(section)):
            if fixing is not None and method.leaves & CHANGES_ACTS:
                text = f"{method.name} comes after {fixing}, which has fixed the scales of acts"
                what = "leave one of them out" if "static" in method.leaves else f"put {method.name} before it"
                yield Problem(("quant", section, "method", index), f"{text}; {what}")
            if rounding is not None and not method.works_on_rounded:
                text = (
                    f"{method.name} comes after {rounding}, which has rounded the weights; put {method.name} before it"
                )
                yield Problem(("quant", section, "method", index), text)
            if "rounded" in method.leaves:
                rounding = method.name
            if "static" in method.leaves:
                fixing = method.name


def per_step_problems(config: Config) -> Iterator[Problem]:
    """Whether a method that keeps something for each step finds the steps in calibration that will run."""
    calib, samplings = config.calib_sampling(), config.eval_samplings()
    for section, quant in config.quant.sections().items():
        methods = [(index, method) for index, method in enumerate(quant.method) if "steps" in method.leaves]
        for index, method in methods:
            keys: KeyPath = ("quant", section, "method", index)
            acts = [spec.act for _, spec in _specs(section, quant) if spec.act is not None and not spec.act.dynamic]
            if not acts:
                text = f"{method.name} finds scales of acts with `static: True`, and there is none"
                yield Problem(keys, f"{text}; write `act: {{bit: 8, granularity: per_tensor, static: True}}`")
            for act in {act.format.name for act in acts if act.format.whole_max is not None}:
                yield Problem(keys, f"{method.name} cannot keep scales of {act} for each step; use Static")
            if (problem := method.schedule_problem(calib.steps)) is not None:
                yield Problem(keys, problem)
            for field, key in EVAL_SCHEDULE.items():
                wanted = getattr(calib, field)
                if samplings and getattr(samplings[0], field) != wanted:
                    found = f"it is {getattr(samplings[0], field)}, and {method.name} has scales for the steps of calib"
                    yield Problem(("eval", key), f"{found}, where it is {wanted}; write the same, or leave it out")


def target_problems(config: Config) -> Iterator[Problem]:
    """Whether each target can store what the methods and grids leave."""
    exporters = [exporter for exporter, _ in config.save.targets()]
    for exporter in exporters:
        yield from _name_problems(config, exporter)
        yield from _folder_problems(config, exporter)
        if config.model.path.exists() and (problem := exporter.source_problem(config.model.path)) is not None:
            yield Problem(("save", exporter.switch), f"{exporter.name} was asked for in `save`, and {problem}")
    for section, quant in config.quant.sections().items():
        left = frozenset[str]().union(*(method.leaves for method in quant.method))
        specs = _specs(section, quant)
        if section == "video_gen" and config.ignored_layers != IgnoredLayersConfig():
            specs.append((("ignored_layers",), LayerSpec()))
        targets = [exporter if section == "video_gen" else exporter.for_encoders() for exporter in exporters]
        for exporter in targets:
            yield from _grid_problems(exporter, specs, left)
        for keys, spec in specs:
            try:
                as_computed(spec, targets)
            except UnsupportedSpec as error:
                yield Problem(keys, str(error))


def attention_problems(config: Config) -> Iterator[Problem]:
    """Whether each target can store how attention is quantized."""
    policy = config.attention_policy()
    if policy is None:
        return
    keys: KeyPath = ("quant", "video_gen", "attention")
    specs = {keys: policy.default} | {(*keys, "rules", index): rule.spec for index, rule in enumerate(policy.rules)}
    for exporter, _ in config.save.targets():
        for place, spec in specs.items():
            if spec is not None and (problem := exporter.attention_problem(spec)) is not None:
                yield Problem(place, f"{exporter.name} was asked for in `save`, and {problem}")


def _grid_problems(
    exporter: Exporter, specs: Sequence[tuple[KeyPath, LayerSpec]], left: frozenset[str]
) -> Iterator[Problem]:
    schemes = [exporter.scheme_of(spec) for _, spec in specs]
    first = next((scheme for scheme in schemes if scheme is not None), None)
    for (keys, spec), scheme in zip(specs, schemes, strict=True):
        for sentence in exporter.problems(spec, left):
            yield Problem(keys, f"{exporter.name} was asked for in `save`, and {sentence}")
        if scheme not in (None, first):
            yield Problem(keys, f"{exporter.name} was asked for in `save`, and it has one scheme for all layers; "
                                f"found {scheme} here and {first} above: give all layers one grid")  # fmt: skip


def _folder_problems(config: Config, exporter: Exporter) -> Iterator[Problem]:
    try:
        released = config.model.adapter().index(config.model.path).is_release
    except LlmcError:  # said already
        return
    if exporter.around and released:
        text = f"it writes a whole pipeline of diffusers, and {config.model.path} is a release in another layout"
        yield Problem(("save", exporter.switch), f"{text}; leave it out, or give model.path such a pipeline and "
                                                 "model.transformer the release")  # fmt: skip


def _name_problems(config: Config, exporter: Exporter) -> Iterator[Problem]:
    adapter = config.model.adapter()
    tables = [*adapter.renames, *([ORIGINAL] if adapter.knows_original() else [])]
    if exporter.names is not None and exporter.names not in tables:
        found = ", ".join(tables) or "none"
        text = f"{exporter.name} reads no network of {config.model.type}"
        if exporter.names == ORIGINAL:
            text = f"{exporter.name} needs the names of {config.model.type} in its own repository, which are not known"
        yield Problem(("save", exporter.switch), f"{text} (tables of names: {found}); leave this target out")


def arithmetic_problems(config: Config) -> Iterator[Problem]:
    """Whether the device could multiply the codes that real_quant is to judge."""
    if config.eval is None or "real_quant" not in config.eval.eval_pos:
        return
    for section, quant in config.quant.sections().items():
        for keys, spec in _specs(section, quant):
            if problem := spec.real_problem():
                yield Problem(keys, f"real_quant was asked for in `eval.eval_pos`, and {problem}")


def output_problems(config: Config) -> Iterator[Problem]:
    """Whether folders can be made where they are asked for, and nothing else lies where the export is to be written."""
    yield from _unwritable(("base", "run_dir"), config.run_dir)
    keys: KeyPath = ("save", "save_path")
    path = config.save.save_path
    if path is None:
        return
    if unwritable := list(_unwritable(keys, path)):
        yield from unwritable
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


def _specs(section: str, quant: NetworkConfig) -> list[tuple[KeyPath, LayerSpec]]:
    """Every grid that a section gives to layers, and where it does."""
    rules: list[tuple[KeyPath, LayerSpec]] = [
        (("quant", section, "rules", index), quant.rule_spec(rule)) for index, rule in enumerate(quant.rules)
    ]
    return [(("quant", section), quant.default_spec()), *rules]


def _sample_sections(config: Config) -> list[tuple[str, SamplesConfig]]:
    return [("calib", config.calib), *([("eval", config.eval)] if config.eval else [])]


def _missing(config: Config, keys: KeyPath, path: Path) -> Iterator[Problem]:
    if not path.exists():
        folder = config.source.path.parent if config.source else None
        looked = ", ".join(str(place) for place in input_candidates(path, folder) if place != path)
        yield Problem(
            keys, f"{path} does not exist{f' (looked for {looked})' if looked else ''}; put in a path that does"
        )


def _unwritable(keys: KeyPath, path: Path) -> Iterator[Problem]:
    there = next(place for place in (path.absolute(), *path.absolute().parents) if place.exists())
    if not there.is_dir():
        yield Problem(keys, f"{there} is a file; name a folder")
    elif not os.access(there, os.W_OK | os.X_OK):
        yield Problem(keys, f"{there} may not be written to; name a folder elsewhere, or give access")


def _found_in(folder: Path, expected: set[str]) -> str:
    """The first few names in a folder."""
    names = sorted(entry.name for entry in folder.iterdir() if entry.name not in expected) if folder.is_dir() else []
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _written_for(folder: Path) -> str | None:
    """The fingerprint in the metadata of a checkpoint; None if there is no checkpoint of ours."""
    for file in sorted(folder.rglob("*.safetensors")):
        try:
            header = file_header(file)
        except LlmcError:  # so nothing of ours
            continue
        found: str | None = header.get("__metadata__", {}).get("fingerprint")
        if found is not None:  # files that were only linked there say nothing
            return found
    return None
