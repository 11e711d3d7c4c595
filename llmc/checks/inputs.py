"""What a run reads: the model and its encoders, samples, and sizes and steps that the family can make."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from llmc.config.document import KeyPath
from llmc.config.explain import Problem
from llmc.config.numbers import MAX_VOLUME
from llmc.config.paths import input_candidates, some_files
from llmc.config.samples import SamplesConfig
from llmc.config.schema import Config
from llmc.config.words import choice
from llmc.errors import LlmcError
from llmc.models.base import adapters, check_adapter
from llmc.models.encoders import encoder_classes, known_class, section_of
from llmc.models.folder import folder_problems
from llmc.section import Section

CHECKPOINTS = (".safetensors", ".pth", ".pt")  # how files of weights end
TASKS = {
    "i2v": "i2v: each sample needs an image",
    "t2v": "t2v: it takes a prompt alone",
    "t2i": "t2i: it makes an image of a prompt",
    "i2i": "i2i: it makes an image of a prompt and an image, which each sample needs",
}
# field of Sampling -> its key in the configuration
SCHEDULE = {
    "guidance_scale_2": "guidance_scale_2",
    "shift": "sample_shift",
    "denoising_step_list": "denoising_step_list",
}


def input_problems(config: Config) -> Iterator[Problem]:
    """Why what is to be read cannot be."""
    for check in (
        model_problems,
        encoder_problems,
        samples_problems,
        sampling_problems,
        metric_problems,
        gating_problems,
    ):
        yield from check(config)


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
        yield from _without_weights(config, keys, path, CHECKPOINTS)
        if name not in adapter.networks:
            able = ", ".join(other for other, cls in adapters().items() if name in cls.networks)
            yield Problem(keys, f"{config.model.type} reads its folder alone; leave it out (it is for {able})")
        elif components is not None and name not in components:
            yield Problem(keys, f"{config.model.path} has no {name} that it could stand in for; leave it out")
    for index, lora in enumerate(config.model.lora):
        yield from _without_weights(config, ("model", "lora", index, "path"), lora.path, CHECKPOINTS[:1])
        if components and lora.part is not None and lora.part not in components:
            text = f"it is {lora.part}; the model has no such network: {choice(lora.part, sorted(components))}"
            yield Problem(("model", "lora", index, "part"), text)


def encoder_problems(config: Config) -> Iterator[Problem]:
    """Whether the pipeline has the encoders that are to be quantized or replaced, of classes whose layout is known."""
    adapter = config.model.adapter()
    for name, path in config.model.encoder_weights().items():
        yield from _without_weights(config, ("model", name), path, CHECKPOINTS)
    try:
        classes = encoder_classes(adapter.index(config.model.path), adapter.encoders)
    except LlmcError:  # said already
        return
    for name in sorted(config.model.encoder_weights().keys() - classes.keys()):
        has = ", ".join(classes) or "no encoder at all"
        yield Problem(("model", name), f"the pipeline has {has}; leave model.{name} out")
    for section in config.quant.sections():
        mine = {name: found for name, found in classes.items() if section_of(name) == section}
        if section != Section.VIDEO_GEN and not mine:
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
    """Whether the model family can make videos of these sizes, in this way."""
    adapter = type(config.model.adapter())
    for key, samples in _sample_sections(config):
        if samples.num_frames is None and not adapter.makes_images:
            yield Problem((key, "num_frames"), "the key is missing; give the frames of the video")
            continue
        yield from size_problems(config, key, samples)
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


def size_problems(config: Config, key: str, samples: SamplesConfig) -> Iterator[Problem]:
    """Whether the family makes such sizes, and this very model has positions for them."""
    adapter, frames = config.model.adapter(), samples.num_frames or 1
    if frames > 1 and adapter.makes_images:
        yield Problem((key, "num_frames"), f"it is {frames}; {config.model.type} makes images: leave it out")
    volume = samples.target_height * samples.target_width * frames
    if volume > MAX_VOLUME:
        text = f"a video has {volume:.1e} pixels, which is more than {MAX_VOLUME:.1e}; make it smaller or shorter"
        yield Problem((key,), text)
    for sentence in adapter.check_sampling(samples.target_height, samples.target_width, frames):
        name = sentence.split()[0]
        keys = (key, name) if name in type(samples).model_fields else (key,)
        yield Problem(keys, sentence.replace(f"{name} is", "it is", 1))
    try:
        reach = adapter.reach(adapter.index(config.model.path))
    except LlmcError:  # said already
        return
    for name, most in reach.items():
        if (size := getattr(samples, name) or 0) > most:
            yield Problem(
                (key, name), f"it is {size}, and the positions of this model reach {most}; write at most that"
            )


def step_problems(config: Config) -> Iterator[Problem]:
    """Whether the number of steps is that of the list of a distilled model."""
    calib = config.calib
    of_calib = None if calib is None else calib.denoising_step_list
    given = [] if calib is None else [("calib", "sample_steps", calib.sample_steps, of_calib)]
    if config.eval is not None:
        given.append(("eval", "steps", config.eval.steps or 0, config.eval.denoising_step_list or of_calib))
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


def gating_problems(config: Config) -> Iterator[Problem]:
    """Whether what the gate asks for is measured, on samples enough to tell."""
    if config.eval is None or (gate := config.eval.gate) is None:
        return
    measured = [*(metric.name for metric in config.metrics()), "latent_error", "teacher_forced_error"]
    positions = ["float", "fp8", *(["baseline"] if config.eval.baseline else []), *config.eval.eval_pos]
    try:
        samples = len(config.eval.samples(config.model.adapter()))
    except LlmcError:  # told where samples are looked at
        return
    for text in gate.problems(measured, positions, samples):
        yield Problem(("eval", "gate"), text)


def _sample_sections(config: Config) -> list[tuple[str, SamplesConfig]]:
    given: dict[str, SamplesConfig | None] = {"calib": config.calib, "eval": config.eval}
    return [(key, samples) for key, samples in given.items() if samples is not None]


def _without_weights(config: Config, keys: KeyPath, path: Path, endings: Sequence[str]) -> Iterator[Problem]:
    """Whether there is a file that can hold weights, by its name; what is in it is read before anything else is."""
    yield from _missing(config, keys, path)
    files = [path] if path.is_file() else some_files(path)
    if path.exists() and not any(file.suffix in endings for file in files):
        yield Problem(keys, f"{path} holds no {', '.join(endings)}; name such a file, or its folder")


def _missing(config: Config, keys: KeyPath, path: Path) -> Iterator[Problem]:
    if not path.exists():
        folders = config.source.folders if config.source else ()
        looked = ", ".join(str(place) for place in input_candidates(path, folders) if place != path)
        yield Problem(
            keys, f"{path} does not exist{f' (looked for {looked})' if looked else ''}; put in a path that does"
        )
