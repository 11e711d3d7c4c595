import logging

import pytest

from llmc.eval.metrics.vmaf import VMAF


def test_without_motion_the_best_figure_is_about_97(clip):
    per_frame = VMAF().score(clip(5), clip(5)).per_frame
    assert per_frame[0] == pytest.approx(97.43, abs=0.1)
    assert all(value > 98 for value in per_frame[1:])


def test_the_figure_does_not_depend_on_the_threads(clip):
    pair = clip(4), clip(4, noise=10)
    assert VMAF(threads=1).score(*pair) == VMAF(threads=4).score(*pair)


def test_frames_below_the_least_size_of_libvmaf_are_those_frames_enlarged(clip):
    small, noisy = clip(3, 16, 20), clip(3, 16, 20, noise=20)
    enlarged = [frames.repeat_interleave(2, dim=1).repeat_interleave(2, dim=2) for frames in (small, noisy)]
    assert VMAF().score(small, noisy) == VMAF().score(*enlarged)


def test_an_ffmpeg_without_libvmaf_gives_no_figure_and_says_why(clip, tmp_path, monkeypatch, caplog):
    other = tmp_path / "ffmpeg"
    other.write_text("#!/bin/sh\ncat > /dev/null\necho \"No such filter: 'libvmaf'\" >&2\nexit 1\n")
    other.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(other))
    with caplog.at_level(logging.WARNING):
        score = VMAF().score(clip(2), clip(2))
    assert score.value is None and "No such filter" in score.why
    assert "No such filter" in caplog.text


def test_an_ffmpeg_that_hangs_is_given_up(clip, tmp_path, monkeypatch):
    other = tmp_path / "ffmpeg"
    other.write_text("#!/bin/sh\nexec sleep 30\n")
    other.chmod(0o755)
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(other))
    score = VMAF(timeout=0.3).score(clip(2), clip(2))
    assert score.value is None and "0.3 s" in score.why
