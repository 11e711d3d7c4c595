"""The calibration and evaluation samples: a folder with `samples.json` and the images it names, which lie in it.

Those of msModelSlim are read too: `index.json`, or `index.jsonl` with one sample a line, whose prompt is its `text`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmc.errors import CalibrationError
from llmc.files.json_text import MOST_BYTES, NotJson, parse_json
from llmc.files.regular import read_file
from llmc.files.words import shown
from llmc.log import shortened
from llmc.models.pictures import picture_problem
from llmc.models.samples import Sample

NAMES = ("samples.json", "index.jsonl", "index.json")  # the first that is there
FORM = '[{"image": "first_frame.png", "prompt": "…", "negative_prompt": "…"}, …]'


def read_samples(
    folder: Path,
    needs_image: bool,
    limit: int | None = None,
    prompts: tuple[str, ...] = (),
    needs_last_image: bool = False,
) -> list[Sample]:
    """The samples of a folder, or of a json file itself; `prompts` replace those of the file, in order and in turn."""
    there = [folder / name for name in NAMES if (folder / name).exists()]
    path = there[0] if there else folder
    if path.is_dir():
        raise CalibrationError(f"{folder} has no samples.json, and no index.jsonl.\n  It is a list: {FORM}")
    samples = []
    for number, entry in enumerate(_entries(path), 1):
        try:
            samples.append(Sample.model_validate(_in_our_words(entry)))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "it"
            raise _no_list(path, f"of its sample {number}, {shown(where)}: {shown(first['msg'])}") from error
    if not samples:
        raise CalibrationError(f"{path} lists no samples.\n  The form is {FORM}")
    if prompts:
        samples = [samples[i % len(samples)].model_copy(update={"prompt": text}) for i, text in enumerate(prompts)]
    needed = {"image": needs_image, "last_image": needs_last_image}
    return [_with_images(sample, path, needed) for sample in samples[:limit]]


def _entries(path: Path) -> list[Any]:
    """The entries of a list, or those on the lines of a .jsonl."""
    text = read_file(path, MOST_BYTES, CalibrationError)
    try:
        if path.suffix == ".jsonl":
            return [parse_json(line) for line in text.splitlines() if line.strip()]
        found = parse_json(text)
    except NotJson as error:
        raise _no_list(path, str(error)) from error
    if not isinstance(found, list):
        raise _no_list(path, f"it is a {type(found).__name__}")
    return found


def _no_list(path: Path, why: str) -> CalibrationError:
    return CalibrationError(f"{path} is not a list of samples: {why}\n  The form is {FORM}")


def _in_our_words(entry: Any) -> Any:
    """A sample of msModelSlim calls its prompt text."""
    if not isinstance(entry, dict) or "prompt" in entry:
        return entry
    return {"prompt" if key == "text" else key: value for key, value in entry.items()}


def _with_images(sample: Sample, path: Path, needed: Mapping[str, bool]) -> Sample:
    found = {}
    for key, is_needed in needed.items():
        name: Path | None = getattr(sample, key)
        if name is not None:
            found[key] = _image(path, name)
        elif is_needed:
            raise CalibrationError(
                f"a sample in {path} has no {key} ({shortened(sample.prompt, 100)!r}): this model needs one in each"
            )
    return sample.model_copy(update=found)


def _image(path: Path, name: Path) -> Path:
    """The picture that a file of samples names; it must lie in the same folder, or below it."""
    # by the names alone: a link that somebody made in the folder was meant
    folder, wanted = (Path(os.path.normpath(each.absolute())) for each in (path.parent, path.parent / name))
    if not wanted.is_relative_to(folder):
        raise CalibrationError(
            f"{path} names {name}, which does not lie in its folder; put the image beside it, and name it from there"
        )
    place = path.parent / wanted.relative_to(folder)
    if (problem := picture_problem(place)) is not None:
        raise CalibrationError(f"{path} names {name}, which {problem}")
    return place
