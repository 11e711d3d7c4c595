import pytest
import torch

from llmc.eval.metrics.temporal import TemporalError


def test_a_constant_offset_is_no_temporal_error():
    moving = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 4, 4, 3) * 10
    assert TemporalError().score(moving, moving + 30).value == 0.0


def test_a_candidate_that_stands_still_misses_all_of_the_motion(clip):
    moving = clip(6)
    assert TemporalError().score(moving, moving[:1].expand_as(moving)).value == pytest.approx(1.0)


def test_flicker_on_a_still_reference_is_counted_in_grey_levels():
    still = torch.full((4, 4, 4, 3), 100, dtype=torch.uint8)
    flicker = still.clone()
    flicker[1::2] += 3
    assert TemporalError().score(still, flicker).value == pytest.approx(3.0)


def test_the_figure_is_the_root_mean_square_of_the_transitions(clip):
    score = TemporalError().score(clip(6), clip(6, noise=8))
    assert score.value == pytest.approx((sum(e**2 for e in score.per_frame) / 5) ** 0.5)
