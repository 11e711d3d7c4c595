"""A checkpoint written as one file, as shards, or by block, holding one tensor at a time; all of it or nothing.

Every exporter writes through `write_checkpoint`. The headers of all tensors are known beforehand, so the files and
their index are laid out before the first value is made.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch

from llmc.atomic import atomic_file, staged_folder
from llmc.convert.safetensors_file import LazyTensor, byte_count, made, write_file
from llmc.errors import ExportError
from llmc.finite import not_finite
from llmc.log import byte_size

Layout: TypeAlias = Literal["single", "sharded", "blocks"]
Suffix: TypeAlias = Literal[".safetensors", ".pth"]

STEM = "diffusion_pytorch_model"  # what diffusers looks for
MAX_SHARD_SIZE = 5 * 10**9
BLOCK = re.compile(r"\w*blocks\.(\d+)\.")  # LightX2V finds a tensor's file by the second component of its name


def write_checkpoint(
    folder: Path,
    tensors: Mapping[str, LazyTensor],
    layout: Layout = "sharded",
    metadata: Mapping[str, str] | None = None,
    *,
    stem: str = STEM,
    suffix: Suffix = ".safetensors",
    max_shard_size: int = MAX_SHARD_SIZE,
    max_shard_tensors: int | None = None,
    config: Mapping[str, Any] | None = None,
    mode: int | None = None,
) -> list[Path]:
    """Write `tensors` (and config.json) into `folder`, in place of a checkpoint of the same name that may be there."""
    files = plan_files(tensors, layout, stem, suffix, max_shard_size, max_shard_tensors)
    with staged_folder(folder) as stage:
        check_space(stage, sum(byte_count(tensor) for tensor in tensors.values()))
        for file, names in files.items():
            part = {name: tensors[name] for name in names}
            if suffix == ".pth":
                # a clone, since the view of a larger storage would bring all of that along; all of them are in memory
                write_pickle(stage / file, {name: made(name, tensor).clone() for name, tensor in part.items()}, mode)
            else:
                write_file(stage / file, part, {"format": "pt", **(metadata or {})}, mode)
        if layout == "sharded" and len(files) > 1:
            write_json(stage / index_name(stem, suffix), weight_index(files, tensors), mode)
        if config is not None:
            write_json(stage / "config.json", config, mode)
        written = sorted(file.name for file in stage.iterdir())
    for stale in folder.iterdir():
        if is_replaced(stale.name, stem, suffix) and stale.name not in written:
            stale.unlink()  # a reader that takes every file of the folder would mix the two checkpoints
    return [folder / name for name in written]


def plan_files(
    tensors: Mapping[str, LazyTensor],
    layout: Layout,
    stem: str = STEM,
    suffix: Suffix = ".safetensors",
    max_shard_size: int = MAX_SHARD_SIZE,
    max_shard_tensors: int | None = None,
) -> dict[str, list[str]]:
    """File name -> names of the tensors in it."""
    if layout == "single":
        return {f"{stem}{suffix}": list(tensors)}
    if layout == "blocks":
        return _by_block(tensors, suffix)
    shards = _shards(tensors, max_shard_size, max_shard_tensors)
    if len(shards) == 1:
        return {f"{stem}{suffix}": shards[0]}
    return {f"{stem}-{i:05d}-of-{len(shards):05d}{suffix}": shard for i, shard in enumerate(shards, 1)}


def index_name(stem: str = STEM, suffix: Suffix = ".safetensors") -> str:
    """The file beside shards that says which tensor is in which."""
    return f"{stem}{suffix}.index.json"


def weight_index(files: Mapping[str, list[str]], tensors: Mapping[str, LazyTensor]) -> dict[str, Any]:
    """The content of an index, as diffusers and transformers read it."""
    total = sum(byte_count(tensor) for tensor in tensors.values())
    weight_map = {name: file for file, names in files.items() for name in names}
    return {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}


def write_json(path: Path, content: Mapping[str, Any], mode: int | None = None) -> None:
    """A readable JSON file, whole or not at all."""
    if wrong := next(not_finite(content), None):
        raise ExportError(
            f"{path} would hold NaN or infinity as {wrong}, which JSON has no words for; look for what made that figure"
        )
    with atomic_file(path, mode) as file:
        file.write((json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())


def write_pickle(path: Path, content: Any, mode: int | None = None) -> None:
    """What `torch.load` reads, whole or not at all."""
    with atomic_file(path, mode) as file:
        try:
            torch.save(content, file)
        except RuntimeError as error:
            cause = error.__context__  # torch goes on to close its archive, and complains of that alone
            if isinstance(cause, OSError):
                raise cause from None
            raise


def check_space(folder: Path, needed: int) -> None:
    """Refuse before the first byte what the disk cannot hold."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ExportError(
            f"{folder.parent} has {byte_size(free)} free; {byte_size(needed)} are to be written; free some space, or "
            "write to another disk"
        )


def is_replaced(file: str, stem: str, suffix: Suffix) -> bool:
    """Whether a file has a name that some layout of such a checkpoint would give it."""
    names = rf"(block_\d+|non_block|{re.escape(stem)}(-\d{{5}}-of-\d{{5}})?){re.escape(suffix)}"
    return file == index_name(stem, suffix) or re.fullmatch(names, file) is not None


def _by_block(tensors: Mapping[str, LazyTensor], suffix: Suffix) -> dict[str, list[str]]:
    files: dict[str, list[str]] = {}
    for name in tensors:
        block = BLOCK.match(name)
        files.setdefault(f"block_{block[1]}{suffix}" if block else f"non_block{suffix}", []).append(name)
    return files


def _shards(tensors: Mapping[str, LazyTensor], max_size: int, max_count: int | None) -> list[list[str]]:
    """Consecutive tensors, each shard as full as the limits allow; a tensor above the limit is alone in its own."""
    shards: list[list[str]] = [[]]
    size = 0
    for name, tensor in tensors.items():
        size += byte_count(tensor)
        if shards[-1] and (size > max_size or len(shards[-1]) == max_count):
            shards.append([])
            size = byte_count(tensor)
        shards[-1].append(name)
    return shards
