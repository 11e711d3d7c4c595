import pytest

from llmc.eval.charts import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, line_chart


@pytest.mark.parametrize(
    "figures",
    [
        [0.001, 0.5, 0.2],
        [3.0, 4.0],
        [0.0, 0.0],
        [1.0],
        [1e-9, 1e3],
        [100.0, 99.0, 98.0],
        [9.999e-3, 1e-2],
        [1e-5, 9e-5],
    ],
    ids=str,
)
def test_every_dot_lies_inside_the_frame_and_every_axis_has_ticks(figures):
    names = [f"step {i}" for i in range(len(figures))]
    chart = line_chart({"a": figures}, {"a": "a"}, names, "step")
    assert len(chart.lines[0].dots) == len(figures)
    for dot in chart.lines[0].dots:
        assert LEFT <= dot.x <= WIDTH - RIGHT and TOP <= dot.y <= HEIGHT - BOTTOM
    assert 2 <= len(chart.y_ticks) <= 14 and chart.x_ticks


def test_a_missing_figure_breaks_the_line():
    chart = line_chart({"a": [1.0, 2.0, None, 3.0]}, {"a": "a"}, ["0", "1", "2", "3"], "step")
    assert chart.lines[0].path.count("M") == 2 and len(chart.lines[0].dots) == 3


def test_nothing_to_draw_is_no_chart():
    assert line_chart({}, {}, [], "step") is None
    assert line_chart({"a": [None]}, {"a": "a"}, ["0"], "step") is None
