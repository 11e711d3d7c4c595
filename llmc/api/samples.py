"""The samples of a notebook: a folder of them, or a list of prompts, which is written to one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmc.atomic import atomic_file
from llmc.errors import ConfigError
from llmc.models.samples import Sample, Sampling

Samples = str | Path | Sequence[str | Sample | Mapping[str, Any]] | None
Asked = Sampling | Mapping[str, Any] | None  # how videos are made: all of it, or what is to be otherwise
KEYS = {  # of Sampling -> of the sections `calib` and `eval`
    "height": "target_height",
    "width": "target_width",
    "num_frames": "num_frames",
    "guidance_scale": "guidance_scale",
    "guidance_scale_2": "guidance_scale_2",
    "shift": "sample_shift",
    "denoising_step_list": "denoising_step_list",
}
OWN = {"calib": {"steps": "sample_steps", "seed": "seed"}, "eval": {"steps": "steps", "seed": "seeds"}}


def keys_of(sampling: Asked, section: str) -> dict[str, Any]:
    """What a sampling says, in the keys of a section."""
    if sampling is None:
        return {}
    said = sampling.model_dump() if isinstance(sampling, Sampling) else dict(sampling)
    known = KEYS | OWN[section]
    if unknown := said.keys() - known.keys():
        raise ConfigError(f"sampling has {', '.join(sorted(unknown))}; it has {', '.join(known)}: see llmc.Sampling")
    found = {known[name]: value for name, value in said.items() if value is not None}
    if "seeds" in found:
        found["seeds"] = [found["seeds"]]
    return found


def folder_of(samples: Samples, folder: Path) -> Path | None:
    """Where samples lie; a list of them is written to `folder`, with copies of their images."""
    if samples is None or isinstance(samples, str | Path):
        return None if samples is None else Path(samples)
    if not samples:
        raise ConfigError("samples is an empty list; give prompts, or the folder of samples")
    folder.mkdir(parents=True, exist_ok=True)
    written = [_written(sample, index, folder) for index, sample in enumerate(map(_sample, samples))]
    with atomic_file(folder / "samples.json") as file:
        file.write(json.dumps(written, ensure_ascii=False, indent=1).encode())
    return folder


def said_of(samples: Samples) -> Any:
    """Samples as they tell one run from another."""
    if samples is None or isinstance(samples, str | Path):
        return samples and str(samples)
    return [_sample(sample).model_dump(mode="json") for sample in samples]


def _sample(sample: str | Sample | Mapping[str, Any]) -> Sample:
    try:
        return Sample.model_validate({"prompt": sample} if isinstance(sample, str) else sample)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise ConfigError(
            f"{sample!r} is no sample: {where}: {first['msg']}; give a prompt, or a dictionary with prompt and image"
        ) from error


def _written(sample: Sample, index: int, folder: Path) -> dict[str, Any]:
    said = sample.model_dump(mode="json", exclude_none=True)
    for key in ("image", "last_image"):
        if (image := getattr(sample, key)) is not None:
            said[key] = f"{index}_{key}{image.suffix}"
            if not image.is_file():
                raise ConfigError(f"samples[{index}] names the {key} {image}, which does not exist; name a file")
            shutil.copyfile(image, folder / said[key])
    return said
