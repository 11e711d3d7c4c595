"""The page about Python runs from its first line to its last, on the embedded model."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CODE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    monkeypatch.chdir(tmp_path)
    blocks = CODE.findall((ROOT / "docs/python.md").read_text(encoding="utf-8"))
    exec(compile("\n".join(blocks), "docs/python.md", "exec"), {})
    said = capsys.readouterr().out
    assert all(word in said for word in ("baseline", "fake_quant", "pass", "0_seed42.mp4"))
    assert list((tmp_path / "export").glob("*.safetensors"))
