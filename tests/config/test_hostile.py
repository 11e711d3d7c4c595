"""Whatever a configuration holds, `check` accepts or refuses it: at once, readably, and leaving nothing behind."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmc.__main__ import main
from tests.config.hostile import TEXTS, overrides, spoiled_texts, spoiled_values

SECONDS = 2.0
TINY = Path(__file__).parents[2] / "assets" / "tiny_wan_i2v"
often = settings(
    max_examples=100, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck)
)
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Path:
    """An empty folder to work in; what is imported once is imported already."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(TEXTS[0])
    assert main(["check", "config.yaml", "--explain"]) == 0
    capsys.readouterr()
    return tmp_path


def check(folder: Path, text: str, options: Sequence[str], capsys: Capture) -> None:
    """`check` of a file with this text ends as it should."""
    (folder / "config.yaml").write_bytes(text.encode("utf-8", "surrogatepass"))
    if "apiversion" in text[:2000]:
        options = ["--model_path", str(TINY), "--save_path", "out", *options]
    began = time.process_time()  # of our own: other processes may take the machine
    code = main(["check", "config.yaml", *options])
    assert time.process_time() - began < SECONDS
    said, error = capsys.readouterr()
    assert code in (0, 2)
    assert (code == 0) == bool(said) and (code == 2) == error.startswith("error: ")
    assert len(error) < 20_000 and "Traceback" not in error
    assert all(
        character.isprintable() or character in "\n\u3000\xa0" or ord(character) > 0x1000 for character in said + error
    )
    assert [entry.name for entry in folder.iterdir()] == ["config.yaml"]


@often
@given(text=spoiled_values())
def test_spoiled_values_are_accepted_or_refused(text: str, folder: Path, capsys: Capture) -> None:
    check(folder, text, [], capsys)


@often
@given(text=spoiled_texts())
def test_spoiled_texts_are_accepted_or_refused(text: str, folder: Path, capsys: Capture) -> None:
    check(folder, text, [], capsys)


@often
@given(options=overrides())
def test_any_override_is_accepted_or_refused(options: list[str], folder: Path, capsys: Capture) -> None:
    check(folder, TEXTS[0], options, capsys)


@pytest.mark.slow
@settings(often, max_examples=1500)
@given(text=st.one_of(spoiled_values(), spoiled_texts(), st.sampled_from(TEXTS)), options=overrides())
def test_whatever_is_written_and_set_is_accepted_or_refused(
    text: str, options: list[str], folder: Path, capsys: Capture
) -> None:
    check(folder, text, options, capsys)
