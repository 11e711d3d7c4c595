"""The command line of `scripts/converter.py`, with the options of LightX2V's own converter where they make sense."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterator
from itertools import repeat
from pathlib import Path

from llmc.convert.codes import quantized_layers
from llmc.convert.converter import Conversion, plan_conversion, write_conversion
from llmc.convert.deltas import Merged
from llmc.convert.fuse import bases_of
from llmc.convert.lora import Lora
from llmc.convert.model_types import DIRECTIONS, MODEL_TYPES
from llmc.convert.safetensors_file import LazyTensor, byte_count
from llmc.convert.writer import STEM, Layout
from llmc.errors import ConfigError, ExportError
from llmc.log import byte_size


def parser(documentation: str) -> argparse.ArgumentParser:
    """Every option."""
    description, _, usage = documentation.partition("\n\n")
    options = argparse.ArgumentParser(description=description, epilog=usage.strip())
    options.add_argument(
        "-s", "--source", type=Path, required=True, help="a file, a folder, a pipeline or a run of llmc"
    )
    options.add_argument("-o", "--output", type=Path, required=True, help="the folder to write")
    way = "backward: diffusers -> LightX2V; forward: the way back; without: names stay"
    options.add_argument("-d", "--direction", choices=DIRECTIONS, help=way)
    options.add_argument("-t", "--model_type", choices=tuple(MODEL_TYPES), default="wan_dit")
    options.add_argument("-o_e", "--output_ext", choices=(".safetensors", ".pth"), default=".safetensors")
    options.add_argument("-o_n", "--output_name", default=STEM, help="how the files' names begin (default %(default)s)")
    options.add_argument(
        "-c", "--chunk-size", type=int, default=100, help="tensors per shard, 0: one file (default 100)"
    )
    layout = options.add_mutually_exclusive_group()
    layout.add_argument("-b", "--save_by_block", action="store_true", help="block_<i> and non_block files")
    layout.add_argument("--single_file", action="store_true", help="one file, whatever its size")
    options.add_argument("--lora_path", type=Path, nargs="+", default=[], help="LoRAs to merge, all of them")
    options.add_argument("--lora_strength", type=float, nargs="+", default=[1.0], help="one for each LoRA, or for all")
    alpha = "one for each LoRA, or for all: where a file holds none"
    options.add_argument("--lora_alpha", type=float, nargs="+", default=[None], help=alpha)
    options.add_argument("--force", action="store_true", help="replace the checkpoint that is in the output folder")
    options.add_argument("--dry-run", action="store_true", help="print what becomes of every tensor, write nothing")
    options.add_argument("--quantized", action="store_true", help="refused: a run of llmc quantizes, and judges it")
    return options


def convert(arguments: argparse.Namespace) -> None:
    """Do what the command line says, or refuse."""
    conversion = plan_conversion(arguments.source, arguments.direction, arguments.model_type, loras(arguments))
    if arguments.quantized:
        raise ExportError(why_not_quantized(conversion))
    if arguments.dry_run:
        print(*listing(conversion), sep="\n")
        print(f"{summary(conversion)}; nothing was written")
        return
    layout: Layout = "sharded"
    if arguments.save_by_block:
        layout = "blocks"
    elif arguments.single_file or not arguments.chunk_size:
        layout = "single"
    files = write_conversion(
        conversion,
        arguments.output,
        layout,
        stem=arguments.output_name,
        suffix=arguments.output_ext,
        max_shard_tensors=arguments.chunk_size,
        force=arguments.force,
    )
    print(f"{summary(conversion)}; written to {arguments.output}: {len(files)} files")
    for what, count in Counter(conversion.omitted.values()).items():
        print(f"{count} tensors were left out: {what}")
    if conversion.config is None:
        print(f"no config.json lies in {conversion.source.folder}, so none was written; runtimes need the model's own")


def loras(arguments: argparse.Namespace) -> list[Lora]:
    """The LoRAs of the command line, each with its strength and alpha."""
    paths = arguments.lora_path
    values = {}
    for option in ("lora_strength", "lora_alpha"):
        given = getattr(arguments, option)
        if len(given) not in (1, len(paths)):
            raise ConfigError(
                f"--{option} has {len(given)} values for {len(paths)} LoRAs; it takes one for all or one for each; "
                "give as many as --lora_path has"
            )
        values[option] = given if len(given) == len(paths) else repeat(given[0])
    # of two iterables that may be endless, the paths end the pairing
    return [Lora(*values) for values in zip(paths, values["lora_strength"], values["lora_alpha"], strict=False)]


def listing(conversion: Conversion) -> Iterator[str]:
    """One line for each tensor: what it is made of, and what is not written."""
    for origins, name in conversion.renames():
        yield f"{' + '.join(origins) or '(made)'} -> {name}"
    for name, what in conversion.omitted.items():
        yield f"{name} -> (left out: {what})"


def summary(conversion: Conversion) -> str:
    """How much there is, in one line."""
    changed = sum(origins != (name,) for origins, name in conversion.renames())
    size = sum(byte_count(tensor) for tensor in conversion.tensors.values())
    merged = sum(_is_merged(tensor) for tensor in conversion.tensors.values())
    with_lora = f", {merged} with a LoRA in them" if merged else ""
    return f"{len(conversion.tensors)} tensors, {changed} with a new name{with_lora}, {byte_size(size)}"


def why_not_quantized(conversion: Conversion) -> str:
    """Why `--quantized` is refused."""
    layers = quantized_layers({name: tensor.dtype for name, tensor in conversion.source.tensors.items()})
    if layers:
        return (
            f"{conversion.source.folder} is quantized already: {len(layers)} layers hold codes, such as {layers[0]}; "
            "codes are never quantized again; convert it without --quantized, or quantize the float model"
        )
    return (
        "the converter does not quantize: plain rounding would be written that nobody judged; without --quantized it "
        "converts names and merges LoRAs; quantize with scripts/run_llmc.sh, whose report shows what it costs"
    )


def _is_merged(tensor: LazyTensor) -> bool:
    return isinstance(tensor, Merged) or any(_is_merged(base) for base in bases_of(tensor))
