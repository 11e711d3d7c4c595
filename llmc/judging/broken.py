"""Videos and figures that came out as NaN or infinity: of the float model refused, of any other position told."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from math import isfinite

from llmc import distributed
from llmc.checks.explain import ranges
from llmc.errors import CalibrationError
from llmc.eval.results import POSITIONS
from llmc.judging.judgement import Judgement
from llmc.models.samples import Sample, Sampling, Video


def check_float_videos(planned: Sequence[tuple[int, Sample, Sampling]], videos: Sequence[Video]) -> None:
    """Refuse to judge by what the float model itself cannot make, on whichever rank."""
    own = [(index, sample.prompt) for (index, sample, _), video in zip(planned, videos, strict=True)
           if not video.is_finite]  # fmt: skip
    for index, prompt in sorted(chain.from_iterable(distributed.gather(own))):
        raise CalibrationError(
            f"the float model gives NaN or infinity for sample {index} of `eval` ({prompt!r}), so that nothing can be "
            "judged by it; one that works gives neither: write `model.torch_dtype: bfloat16` or float32 where it "
            "computes in float16, mend or leave out the sample, or give another checkpoint"
        )


def broken(judgement: Judgement) -> Iterator[str]:
    """One sentence for each video that is no picture, and for each network that gave no numbers on the way."""
    for position, judged in judgement.positions.items():
        name = POSITIONS.get(position, position)
        for index, video in enumerate(judged.videos):
            _, how = judgement.samples[index]
            if not video.is_finite:
                yield (
                    f"{position} ({name}): the video of sample {index}, seed {how.seed}, came out as NaN or infinity, "
                    "and is black where it did: do not use what was exported before you know why"
                )
        for index, errors in enumerate(judged.steps):
            if steps := [step for step, error in enumerate(errors) if not (error is None or isfinite(error))]:
                yield (
                    f"{position} ({name}): fed with what the float model was fed, the network gives NaN or infinity in "
                    f"the steps {ranges(steps)} of sample {index}"
                )
