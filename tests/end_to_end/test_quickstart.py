"""The quickstart's commands do what it says, in the order in which they stand there."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from llmc.__main__ import main

ROOT = Path(__file__).parents[2]


def test_one_command_quantizes_and_the_next_verifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    section = (ROOT / "docs/quickstart.md").read_text(encoding="utf-8").split("## One command")[1].split("\n## ")[0]
    commands = [shlex.split(line)[1:] for line in section.splitlines() if line.startswith("llmc ")]
    assert [command[0] for command in commands] == ["quant", "verify"]
    for command in commands:
        assert main(command) == 0
    said = capsys.readouterr().out
    assert said.endswith("passed\n") and "44 weights are the judged ones" in said and "not checked" not in said
