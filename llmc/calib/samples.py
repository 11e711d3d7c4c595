"""The calibration and evaluation samples: a folder with `samples.json` and the images it names."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import ValidationError

from llmc.errors import CalibrationError
from llmc.models.base import Sample

FORM = '[{"image": "first_frame.png", "prompt": "…", "negative_prompt": "…"}, …]'


def read_samples(
    folder: Path, needs_image: bool, limit: int | None = None, prompts: tuple[str, ...] = ()
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
    samples = [_with_image(sample, path.parent, needs_image) for sample in samples]
    return samples[:limit]


def _with_image(sample: Sample, folder: Path, needed: bool) -> Sample:
    if sample.image is None:
        if needed:
            raise CalibrationError(
                f"a sample in {folder} has no image ({sample.prompt!r}): an image-to-video model needs one in each"
            )
        return sample
    image = folder / sample.image
    if not image.is_file():
        raise CalibrationError(
            f"{folder}/samples.json names {sample.image}, which is not there: put the image beside it"
        )
    return sample.model_copy(update={"image": image})
