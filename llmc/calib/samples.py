"""The calibration and evaluation samples: a folder with `samples.json` and the images it names."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from llmc.errors import CalibrationError
from llmc.models.base import Sample

FORM = '[{"image": "first_frame.png", "prompt": "…", "negative_prompt": "…"}, …]'


def read_samples(
    folder: Path,
    needs_image: bool,
    limit: int | None = None,
    prompts: tuple[str, ...] = (),
    needs_last_image: bool = False,
) -> list[Sample]:
    """The samples of a folder, or of a json file itself; `prompts` replace those of the file, in order and in turn."""
    path = folder / "samples.json" if folder.is_dir() else folder
    if not path.is_file():
        raise CalibrationError(f"{folder} has no samples.json.\n  It is a list: {FORM}")
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        samples = [Sample.model_validate(entry) for entry in entries]
    except (json.JSONDecodeError, UnicodeDecodeError, ValidationError, TypeError) as error:
        raise CalibrationError(
            f"{path} is not a list of samples: {str(error).splitlines()[0]}\n  The form is {FORM}"
        ) from error
    if not samples:
        raise CalibrationError(f"{path} lists no samples.\n  The form is {FORM}")
    if prompts:
        samples = [samples[i % len(samples)].model_copy(update={"prompt": text}) for i, text in enumerate(prompts)]
    needed = {"image": needs_image, "last_image": needs_last_image}
    return [_with_images(sample, path.parent, needed) for sample in samples][:limit]


def _with_images(sample: Sample, folder: Path, needed: Mapping[str, bool]) -> Sample:
    found = {}
    for key, is_needed in needed.items():
        name: Path | None = getattr(sample, key)
        if name is None:
            if is_needed:
                raise CalibrationError(
                    f"a sample in {folder} has no {key} ({sample.prompt!r}): this model needs one in each"
                )
        elif not (folder / name).is_file():
            raise CalibrationError(f"{folder}/samples.json names {name}, which is not there: put the image beside it")
        else:
            found[key] = folder / name
    return sample.model_copy(update=found)
