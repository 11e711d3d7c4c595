#!/usr/bin/env python
"""Rename a checkpoint from diffusers' names to LightX2V's, or back; tensors stay as they are, bit for bit.

python scripts/converter.py -s /path/to/save_for_lightx2v/ -o /path/to/output/ -d backward
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("llmc") is None:  # run from a clone that is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from llmc.convert.converter import MODEL_TYPES, Conversion, plan_conversion, write_conversion
from llmc.convert.safetensors_file import byte_count
from llmc.convert.writer import STEM
from llmc.errors import LlmcError


def main() -> int:
    """Convert, or print what would be renamed; 2 if it was refused."""
    args = parse_args()
    try:
        conversion = plan_conversion(args.source, args.direction, args.model_type)
        if args.dry_run:
            print(*(f"{old} -> {new}" for old, new in conversion.renamed.items()), sep="\n")
            print(f"{summary(conversion)}; nothing was written")
            return 0
        files = write_conversion(
            conversion,
            args.output,
            "blocks" if args.save_by_block else "single" if args.single_file or not args.chunk_size else "sharded",
            stem=args.output_name,
            suffix=args.output_ext,
            max_shard_tensors=args.chunk_size,
            force=args.force,
        )
    except LlmcError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{summary(conversion)}; written to {args.output}: {len(files)} files")
    if conversion.config is None:
        print(f"no config.json lies in {conversion.source.folder}, so none was written; runtimes need the model's own")
    return 0


def summary(conversion: Conversion) -> str:
    """How much there is, in one line."""
    changed = sum(old != new for old, new in conversion.renamed.items())
    size = sum(byte_count(tensor) for tensor in conversion.source.tensors.values())
    return f"{len(conversion.renamed)} tensors, {changed} with a new name, {size / 1e9:.2f} GB"


def parse_args() -> argparse.Namespace:
    """The options, named as in LightX2V's own converter."""
    description, _, usage = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(description=description, epilog=usage.strip())
    parser.add_argument(
        "-s", "--source", type=Path, required=True, help="a file, a folder, a pipeline or a run of llmc"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, help="the folder to write")
    parser.add_argument("-d", "--direction", choices=("backward", "forward"), required=True,
                        help="backward: diffusers -> LightX2V; forward: LightX2V -> diffusers")  # fmt: skip
    parser.add_argument("-t", "--model_type", choices=tuple(MODEL_TYPES), default="wan_dit")
    parser.add_argument("-o_e", "--output_ext", choices=(".safetensors", ".pth"), default=".safetensors")
    parser.add_argument("-o_n", "--output_name", default=STEM, help="how the files' names begin (default %(default)s)")
    parser.add_argument(
        "-c", "--chunk-size", type=int, default=100, help="tensors per shard, 0: one file (default 100)"
    )
    layout = parser.add_mutually_exclusive_group()
    layout.add_argument("-b", "--save_by_block", action="store_true", help="block_<i> and non_block files")
    layout.add_argument("--single_file", action="store_true", help="one file, whatever its size")
    parser.add_argument("--force", action="store_true", help="replace the checkpoint that is in the output folder")
    parser.add_argument("--dry-run", action="store_true", help="print every rename, write nothing")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
