import io
import json

import pytest
from pydantic import ValidationError
from rich.console import Console

from llmc.eval.results import Results, columns, ratios, read_results, summary, summary_table, write_results

RESULTS = Results(
    run="runs/a",
    name="name [/red]",
    created="2026-01-01 00:00",
    device="cpu",
    recipe="RTN",
    checkpoint="runs/a/checkpoint",
    metrics={
        "fake_quant": {"psnr": 40.0, "latent_error": 0.01, "teacher_forced_error": float("nan")},
        "baseline": {"psnr": 30.0, "latent_error": 0.04, "vmaf": None},
    },
)


def test_results_survive_their_file(tmp_path):
    write_results(tmp_path / "results.json", RESULTS)
    assert read_results(tmp_path / "results.json") == RESULTS
    assert [path.name for path in tmp_path.iterdir()] == ["results.json"]


def test_a_figure_that_is_no_number_becomes_none():
    assert RESULTS.metrics["fake_quant"]["teacher_forced_error"] is None
    json.dumps(RESULTS.model_dump(mode="json"), allow_nan=False)


def test_an_unknown_key_is_refused():
    with pytest.raises(ValidationError, match="extra"):
        Results.model_validate({**RESULTS.model_dump(), "surprise": 1})


def test_ratios_are_of_the_quantized_model_to_the_baseline():
    found = ratios(RESULTS.metrics)
    assert found == {"latent_error": pytest.approx(0.25), "teacher_forced_error": None, "psnr_gain_db": 10.0}
    assert set(ratios({}).values()) == {None}


def test_the_summary_is_one_line_of_json_that_says_where_things_lie():
    assert json.loads(json.dumps(summary(RESULTS))).keys() == {"run", "checkpoint", "report", "metrics"}


def test_the_table_has_a_row_per_position_and_takes_names_literally():
    console = Console(width=100, file=io.StringIO())
    console.print(summary_table(RESULTS))
    text = console.file.getvalue()
    assert "name [/red]" in text and "40.00" in text and "–" in text
    assert text.index("RTN baseline") < text.index("quantized")


def test_figures_are_printed_with_the_digits_they_deserve():
    assert columns()["psnr"].show(38.123) == "38.12"
    assert columns()["latent_error"].show(0.01234) == "0.0123"
    assert columns()["latent_error"].show(2.3e-6) == "2.3e-06"
    assert columns()["latent_error"].show(0.0) == "0.0000"
    assert columns()["vmaf"].show(None) == "–"


def test_the_error_on_the_float_trajectory_goes_by_the_name_that_its_key_has():
    assert columns()["teacher_forced_error"].title == "teacher-forced error"
