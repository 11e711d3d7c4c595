"""The videos of a run, laid out as VBench's own tool reads them (arXiv 2311.17982).

Its `custom_input` mode takes a folder of videos and a file that gives each one's prompt; its standard mode looks for
`<prompt>-<number>.mp4`. Here a folder of each position serves both.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from llmc.atomic import atomic_file
from llmc.errors import ExportError
from llmc.eval.results import Results, SampleResult, read_results

PROMPTS = "prompts.json"
LONGEST = 200  # bytes of a prompt in a file's name, of which systems allow 255


def lay_out(run: Path, folder: Path) -> dict[str, int]:
    """Put the videos of the run in `run` into `folder`, one folder for each position; how many each has."""
    results = read_results(run / "results.json")
    positions = dict.fromkeys(position for sample in results.samples for position in sample.videos)
    if not positions:
        raise ExportError(
            f"{run} has no videos; VBench judges videos: name a run with an `eval` section that made some"
        )
    return {position: _lay_out_one(run, results, position, folder / position) for position in positions}


def _lay_out_one(run: Path, results: Results, position: str, folder: Path) -> int:
    """One position; its file of prompts comes last, so that it names what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    prompts = {}
    for name, sample in named(results.samples):
        if position in sample.videos:
            video = run / sample.videos[position]
            _put(video, folder / f"{name}{video.suffix}")
            prompts[f"{name}{video.suffix}"] = sample.prompt
    with atomic_file(folder / PROMPTS) as file:
        file.write(json.dumps(prompts, indent=2, ensure_ascii=False).encode())
    return len(prompts)


def named(samples: Iterable[SampleResult]) -> Iterator[tuple[str, SampleResult]]:
    """Each sample with the name of its video; those of one prompt are numbered from 0."""
    numbers: Counter[str] = Counter()
    for sample in samples:
        stem = file_name(sample.prompt)
        yield f"{stem}-{numbers[stem]}", sample
        numbers[stem] += 1


def file_name(prompt: str) -> str:
    """A prompt as the stem of a file: without what a file system takes for something else, and not too long."""
    plain = re.sub(r"[/\\\x00-\x1f\x7f]", " ", prompt).strip().lstrip(".")
    return plain.encode()[:LONGEST].decode(errors="ignore").strip() or "video"


def _put(video: Path, place: Path) -> None:
    """A link to the same file, or a copy where the disk is another one; what was there before goes."""
    if not video.is_file():
        raise ExportError(f"{video} is not there, and results.json names it; run it again, or name another run")
    place.unlink(missing_ok=True)
    try:
        os.link(video, place)
    except OSError:  # another disk, or one without links
        shutil.copyfile(video, place)
