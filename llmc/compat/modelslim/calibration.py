"""The float run of the dialect as our `calib` section: what it says, over what the model's shipped recipe says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import get_args

from pydantic import ValidationError

from llmc.compat.modelslim.recipes import usual_calibration
from llmc.compat.modelslim.schema import InferenceConfig, Spec
from llmc.compat.modelslim.section import Section
from llmc.config.document import KeyPath
from llmc.config.explain import Problem, find_problems
from llmc.config.paths import input_of
from llmc.config.words import choice
from llmc.models.base import ModelAdapter
from llmc.models.samples import Task

SETTINGS: KeyPath = ("spec", "multimodal_sd_config")
# sample sets that ship with msModelSlim, for which those of the model's shipped recipe stand in
PACKAGED = ("mix_calib.jsonl", "wan2_2_t2v", "wan2_2_i2v", "wan2_2_ti2v", "hunyuanvideo", "calibVideos")
# our key -> theirs, of one family or another
RENAMED: Mapping[str, tuple[str, ...]] = {
    "num_frames": ("frame_num", "video_length"),
    "sample_steps": ("sample_steps", "infer_steps", "num_inference_steps"),
    "guidance_scale": ("sample_guide_scale", "embedded_cfg_scale", "guidance_scale"),
    "sample_shift": ("sample_shift", "flow_shift"),
    "target_height": ("height",),
    "target_width": ("width",),
    "seed": ("seed", "base_seed"),
}


def calib_section(spec: Spec, adapter: type[ModelAdapter], name: str) -> Section:
    """What the network is observed on; what the dialect leaves open is as in the recipe that ships for the model."""
    section = Section(values=usual_calibration(name))
    said, where = _said(spec, section)
    given = said.model_dump(exclude_none=True)
    for ours, theirs in RENAMED.items():
        for key in theirs:
            if key in given and not (ours == "seed" and given[key] < 0):
                section.values[ours] = given[key]
                section.sources[(ours,)] = (*where, key)
    if said.size is not None:
        width, height = map(int, said.size.split("*"))
        _set_size(section, height, width, (*where, "size"))
    if said.video_size is not None:
        _set_size(section, *said.video_size, (*where, "video_size"))
    if "shift" not in adapter.optional and section.values.pop("sample_shift", None) is not None:
        section.notes.append("the shift is not used: it is the scheduler's own in this family")
    if spec.runner == "layer_wise":
        section.values["streamed"] = True
        section.sources[("streamed",)] = ("spec", "runner")
    _set_samples(section, spec, said, where)
    if problem := _task_problem(said, adapter, name):
        section.problems.append(Problem((*where, "task"), problem))
    section.notes += _unused(spec, said)
    return section


def _said(spec: Spec, section: Section) -> tuple[InferenceConfig, KeyPath]:
    """What the file says of the run, and where; keys that the older, free section alone may have are noted."""
    settings = spec.multimodal_sd_config
    if settings.inference_config is not None:
        return settings.inference_config, (*SETTINGS, "inference_config")
    where = (*SETTINGS, "model_config")
    given = settings.older_config or {}
    known = {key: value for key, value in given.items() if key in InferenceConfig.model_fields}
    section.notes += [f"model_config.{key} is not used: it is not known here" for key in given if key not in known]
    try:
        return InferenceConfig.model_validate(known), where
    except ValidationError as error:
        section.problems += [
            Problem((*where, *problem.keys), problem.text) for problem in find_problems(error, known, InferenceConfig)
        ]
        return InferenceConfig(), where


def _set_size(section: Section, height: int, width: int, place: KeyPath) -> None:
    section.values |= {"target_height": height, "target_width": width}
    section.sources |= {("target_height",): place, ("target_width",): place}


def _set_samples(section: Section, spec: Spec, said: InferenceConfig, where: KeyPath) -> None:
    """Which prompts and images the float run is made with, and a word on where they come from."""
    if spec.dataset is not None and spec.dataset not in PACKAGED:
        section.values["path"] = str(input_of(spec.dataset, "spec.dataset"))
        section.sources[("path",)] = ("spec", "dataset")
    elif spec.dataset is not None:
        section.notes.append(f"dataset {spec.dataset} ships with msModelSlim alone: samples of ours take its place")
    samples = f"the samples of {section.values.get('path')}"
    if said.prompt is not None:
        section.values["prompts"] = [said.prompt]
        section.sources[("prompts",)] = (*where, "prompt")
        image = f", with the first image of {samples}" if section.values.get("name") == "i2v" else ""
        samples = f"the prompt of {where[-1]}{image}"
    section.notes.append(f"if methods need data, they see {samples}")


def _task_problem(said: InferenceConfig, adapter: type[ModelAdapter], name: str) -> str | None:
    """Why the folder's model is not the one that `task` names; None if it is, or none is named."""
    if said.task is None:
        return None
    kind = said.task.partition("-")[0]
    able = adapter.tasks()
    if kind in able or (kind == "ti2v" and len(able) > 1):
        return None
    known = (*get_args(Task), "ti2v")
    if kind not in known:
        return f"it is {said.task}; {choice(kind, known)}, each with the size of the model after it, as in t2v-14B"
    return f"it is {said.task}, but the folder holds a {name}, which does {' or '.join(able)}: leave task out"


def _unused(spec: Spec, said: InferenceConfig) -> Iterator[str]:
    """Each known key that has no effect here, and why."""
    for key, field in InferenceConfig.model_fields.items():
        if getattr(said, key) is not None and (field.description or "").startswith("not used"):
            yield f"{key} is {field.description}"
    if spec.multimodal_sd_config.dump_config.dump_data_dir:
        yield "dump_data_dir is not used: what calibration sees is kept in the run folder, if at all"
