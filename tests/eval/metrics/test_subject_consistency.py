import math

import pytest
import torch
from PIL import Image

from llmc.eval.metrics.subject_consistency import SubjectConsistency


def slow_descriptor(frame: torch.Tensor) -> dict[tuple[int, int, int], float]:
    """Pixel by pixel, in plain numbers: how strong edges are by area and direction, less the area's mean."""
    rows = [[0.2126 * r + 0.7152 * g + 0.0722 * b for r, g, b in row] for row in frame.tolist()]
    height, width = len(rows), len(rows[0])
    found = {(i, j, k): 0.0 for i in range(8) for j in range(8) for k in range(9)}
    for y in range(height):
        for x in range(width):
            across = rows[y][min(x + 1, width - 1)] - rows[y][max(x - 1, 0)]
            down = rows[min(y + 1, height - 1)][x] - rows[max(y - 1, 0)][x]
            direction = math.floor(math.degrees(math.atan2(down, across)) / 20 + 0.5) % 9
            found[y * 8 // height, x * 8 // width, direction] += math.hypot(across, down)
    means = {(i, j): sum(found[i, j, k] for k in range(9)) / 9 for i in range(8) for j in range(8)}
    return {key: value - means[key[0], key[1]] for key, value in found.items()}


def slow_cosine(one: dict[tuple[int, int, int], float], other: dict[tuple[int, int, int], float]) -> float:
    def product(a: dict[tuple[int, int, int], float], b: dict[tuple[int, int, int], float]) -> float:
        return sum(value * b[key] for key, value in a.items())

    return max(0.0, product(one, other) / math.sqrt(product(one, one) * product(other, other)))


def test_what_stands_still_is_consistent_and_a_cut_is_not(clip):
    still = clip(1, 64, 64).repeat(4, 1, 1, 1)
    cut = still.clone()
    cut[2:] = still[2:].transpose(1, 2)
    assert SubjectConsistency().score(still, still).value == pytest.approx(1.0)
    assert SubjectConsistency().score(still, cut).per_frame[1] < 0.9


def test_a_frame_that_has_nothing_of_the_first_one_counts_by_the_one_before():
    columns, rows = torch.zeros(2, 1, 32, 32, 3, dtype=torch.uint8).unbind()
    columns[:, :, 16:], rows[:, 16:] = 200, 200
    score = SubjectConsistency().score(columns.expand(3, -1, -1, -1), torch.cat((columns, rows, rows)))
    alike = score.per_frame[0]  # the areas that both edges cross
    assert score.per_frame == pytest.approx((alike, (alike + 1) / 2))


def test_it_is_what_a_sum_over_pixels_gives(clip):
    frames = clip(4, 33, 41, noise=4)
    seen = [slow_descriptor(frame) for frame in frames]
    expected = [(slow_cosine(seen[t], seen[0]) + slow_cosine(seen[t], seen[t - 1])) / 2 for t in range(1, 4)]
    assert SubjectConsistency().score(clip(4, 33, 41), frames).per_frame == pytest.approx(expected, abs=1e-3)


def test_frames_are_held_to_the_picture_that_was_given(clip, tmp_path):
    frames = clip(3, 40, 40)
    Image.fromarray(frames[0].numpy()).save(tmp_path / "first.png")
    Image.new("RGB", (60, 40), "grey").save(tmp_path / "other.png")
    own = SubjectConsistency().score(frames, frames)
    assert SubjectConsistency().score(frames, frames, image=tmp_path / "first.png") == own
    assert SubjectConsistency().score(frames, frames, image=tmp_path / "other.png").value < own.value
