#!/usr/bin/env python
"""Lay the videos of a run out as VBench's own tool reads them: `python scripts/vbench.py RUN --to FOLDER`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# the code of this clone, whether it is installed, or another is
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from llmc.ending import exit_code
from llmc.eval.vbench import lay_out


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path, help="the folder of a run that made videos")
    parser.add_argument("--to", type=Path, default=Path("vbench"), help="where to put a folder for each position")
    options = parser.parse_args()

    def work() -> None:
        for position, count in lay_out(options.run, options.to).items():
            print(f"{options.to / position}: {count} videos")

    return exit_code(work)


if __name__ == "__main__":
    sys.exit(main())
