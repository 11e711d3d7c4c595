"""Videos that are none, and networks that give no numbers, are told with the position, the sample and the steps."""

from __future__ import annotations

import pytest
import torch

from llmc.errors import CalibrationError
from llmc.judging.broken import broken, check_float_videos
from llmc.judging.judgement import Judged, Judgement
from llmc.models.samples import Sample, Sampling, Video

NAN, INF = float("nan"), float("inf")
HOW = Sampling(height=8, width=8, num_frames=1, steps=3, guidance_scale=1.0, seed=4)
SAMPLES = [(Sample(prompt="a red circle"), HOW), (Sample(prompt="a blue square"), HOW)]
GOOD = Video.of(torch.full((1, 8, 8, 3), 0.5), torch.ones(2))
BLACK = Video.of(torch.full((1, 8, 8, 3), NAN), torch.ones(2))
LOST = Video.of(torch.full((1, 8, 8, 3), 0.5), torch.tensor([1.0, INF]))


def test_what_a_decoder_makes_of_no_numbers_is_black_and_known() -> None:
    assert GOOD.is_finite and GOOD.frames.unique().tolist() == [128]
    assert not BLACK.is_finite and BLACK.frames.unique().tolist() == [0]
    assert not LOST.is_finite and LOST.decoded_numbers


def test_each_video_and_each_step_that_went_wrong_is_told() -> None:
    fine, wrong = Judged([GOOD, GOOD], [[0.1, 0.2, 0.3]] * 2, [], []), [[0.1, NAN, INF], [0.1, 0.2, 0.3]]
    judgement = Judgement(SAMPLES, {"float": fine, "fake_quant": Judged([LOST, BLACK], wrong, [], [])})
    first, steps, second = sorted(broken(judgement), key=lambda said: ("sample 1" in said, "steps" in said))
    assert first.startswith("fake_quant (quantized): the video of sample 0, seed 4, came out as NaN or infinity")
    assert "NaN or infinity in the steps 1-2 of sample 0" in steps and "the video of sample 1" in second


def test_a_float_video_that_is_none_is_refused_with_its_sample() -> None:
    planned = [(index, sample, how) for index, (sample, how) in enumerate(SAMPLES)]
    check_float_videos(planned, [GOOD, GOOD])
    with pytest.raises(CalibrationError, match=r"for sample 1 of `eval` \('a blue square'\)"):
        check_float_videos(planned, [GOOD, BLACK])
