"""What the page about msModelSlim shows runs, with the embedded model in place of one's own."""

import re
import shlex
from pathlib import Path

import pytest

from llmc.__main__ import main
from llmc.compat.load import load_document
from tests.compat.modelslim.conftest import GOLDEN

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "modelslim.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def shown(language: str) -> list[str]:
    return [text for found, text in BLOCK.findall(PAGE) if found == language]


@pytest.mark.parametrize("line", [line for text in shown("bash") for line in text.splitlines()])
def test_a_command_that_is_shown_runs(line: str, tmp_path: Path) -> None:
    places = {
        "/path/to/model": str(ROOT / "assets" / "tiny_wan_i2v"),
        "/path/to/export": str(tmp_path / "export"),
        "wan2_1_w8a8_dynamic.yaml": str(GOLDEN / "wan2_1_w8a8_dynamic.yaml"),
        "npu": "cpu",
    }
    words = [places.get(word, word) for word in shlex.split(line)]
    start = ["run", "--config"] if words[:2] == ["bash", "scripts/run_llmc.sh"] else []
    more = [] if "check" in words else ["--set", f"base.run_dir={tmp_path / 'run'}"]
    assert main([*start, *words[2 if start else 1 :], *more]) == 0
    assert (tmp_path / "export").exists() == ("check" not in words)


@pytest.mark.parametrize("text", shown("yaml"))
def test_a_file_that_is_shown_is_read(text: str, wan_t2v: Path, tmp_path: Path) -> None:
    path = tmp_path / "shown.yaml"
    path.write_text(text, encoding="utf-8")
    values = load_document(path, [f"model.path={wan_t2v}", f"save.save_path={tmp_path}/export"]).values
    assert values["quant"]["video_gen"]["rules"] == [{"match": "blocks.*.ffn.net.2", "skip": True}]
