"""The linter has nothing to say. Types are checked by .ci/run: mypy takes longer than all tests together."""

import subprocess
import sys
from pathlib import Path


def test_the_linter_has_nothing_to_say() -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "ruff", "check", "--output-format", "concise", "llmc", "tests", "scripts"]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
