#!/usr/bin/env python
"""Convert a checkpoint from diffusers' names to LightX2V's, or back, and merge LoRAs into it; without a GPU.

python scripts/converter.py -s /path/to/save_for_lightx2v/ -o /path/to/output/ -d backward
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

# the code of this clone, whether it is installed, or another is
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from llmc.convert.command import convert, parser
from llmc.ending import exit_code
from llmc.pipe import ended_with_its_reader


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert, or print what would become of every tensor; 2 if it was refused."""
    with ended_with_its_reader():
        options = parser(__doc__ or "").parse_args(arguments)
        return exit_code(partial(convert, options))


if __name__ == "__main__":
    sys.exit(main())
