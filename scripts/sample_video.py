#!/usr/bin/env python
"""Generate videos with HunyuanVideo, and quantize its transformer on what it is called with meanwhile.

torchrun --nproc_per_node=8 scripts/sample_video.py --model-base /path/to/HunyuanVideo --prompt calib_prompts.txt ...
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

# the code of this clone, whether it is installed, or another is
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from llmc import log
from llmc.compat.modelslim.scripted.sample_video import sample_video
from llmc.compat.modelslim.scripted.sample_video_options import parser
from llmc.ending import exit_code
from llmc.pipe import ended_with_its_reader


def main() -> int:
    """Do what the command line asks for; 2 if it was refused."""
    asked = parser().parse_args()
    with ended_with_its_reader(), log.start():
        return exit_code(partial(sample_video, asked))


if __name__ == "__main__":
    sys.exit(main())
