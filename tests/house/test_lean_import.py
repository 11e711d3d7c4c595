"""The commands that need no model answer at once: they import nothing heavy."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GOOD = ROOT / "configs/quantization/video_gen/wan_i2v_tiny/smoothquant_w_a.yaml"
HEAVY = ("torch._C", "diffusers", "transformers", "numpy", "rich", "safetensors")


@pytest.mark.parametrize(
    "arguments", [["--help"], ["list"], ["schema"], ["check", str(GOOD)]], ids=lambda given: given[0]
)
def test_a_light_command_imports_nothing_heavy(arguments: list[str]) -> None:
    heavy = HEAVY if "check" in arguments else (*HEAVY, "PIL")  # which looks at pictures
    code = (
        "import sys; from llmc.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        f"finally: print('imported', [name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "imported []"
