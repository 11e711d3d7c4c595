"""The code of docs/scripted.md runs as it stands, but for the size, the model and the device."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[4] / "docs" / "scripted.md"
DUMP, *SESSIONS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
SMALL = {
    "height=720": "height=32",
    "width=1280": "width=32",
    "num_frames=129": "num_frames=5",
    "num_inference_steps=STEPS": "num_inference_steps=STEPS, max_sequence_length=24",  # that the tiny tokenizer can
    "STEPS = 50": "STEPS = 2",
    'DEVICE = "npu"': 'DEVICE = "cpu"',
    "TIMESTEP_SEP = 25": "TIMESTEP_SEP = 1",
}


@pytest.mark.parametrize("number, expected", [(0, "W8A8_TIMESTEP"), (1, "FAQuant"), (2, "W8A8_DYNAMIC")])
def test_a_script_of_the_page_writes_its_export(
    number: int, expected: str, hunyuan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    imports = [session.partition("session_cfg =")[0] for session in SESSIONS[:number]]  # which later ones do not repeat
    dump = DUMP if number == 0 else DUMP.replace('CAPTURE_MODE = "timestep"', 'CAPTURE_MODE = "args"')
    script = "\n".join([dump, *imports, SESSIONS[number]])
    for old, new in {**SMALL, "/path/to/HunyuanVideo": str(hunyuan)}.items():
        assert old in DUMP or old in SESSIONS[0]
        script = script.replace(old, new)
    monkeypatch.chdir(tmp_path)
    exec(compile(script, PAGE.name, "exec"), {})
    (description,) = Path("results/quant/safe_tensor").glob("quant_model_description_*.json")
    assert expected in json.loads(description.read_text(encoding="utf-8")).values()
