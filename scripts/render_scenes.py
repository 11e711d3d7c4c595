#!/usr/bin/env python
"""Render the first and last frames in `assets/scenes` (832 × 480): `python scripts/render_scenes.py [NAME ...]`.

They are made of numbers alone, and free to use for anything. Another machine may round a pixel differently by a level.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# the scenes of this clone
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scripts.scenes.table import CALIB, EVAL

ROOT = Path(__file__).resolve().parents[1]
QUALITY = 88  # of JPEG


def main() -> None:
    """Write the pictures that were asked for, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    known = [scene.__name__ for scene in (*CALIB, *EVAL)]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(known)}; default: all")
    parser.add_argument("--to", type=Path, default=ROOT / "assets" / "scenes", help="the folder of calib and eval")
    options = parser.parse_args()
    if unknown := set(options.names) - set(known):
        parser.error(f"{', '.join(sorted(unknown))} is no scene; there are {', '.join(known)}")
    for folder, scenes in (("calib", CALIB), ("eval", EVAL)):
        (options.to / folder).mkdir(parents=True, exist_ok=True)
        for scene in scenes:
            if not options.names or scene.__name__ in options.names:
                for when, suffix in ((0.0, "first"), (1.0, "last")):
                    path = options.to / folder / f"{scene.__name__}_{suffix}.jpg"
                    scene(when).save(path, quality=QUALITY, optimize=True)
                    print(path, flush=True)


if __name__ == "__main__":
    main()
