"""A network in the layout of the repository that it comes from: other names, and rows of several modules in one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError

import torch

from llmc.errors import AdapterError
from llmc.models.base import Fused, Original, Swapped

PREFIXES = ("model.diffusion_model.", "diffusion_model.")  # of the network, in files that hold a whole pipeline
SHOWN = 5  # names in one message


@dataclass(frozen=True)
class Stack:
    """One tensor of the original: tensors of ours below each other in `shares`, or one with its halves swapped."""

    target: str
    sources: tuple[str, ...]
    shares: tuple[int, ...] = (1,)
    swapped: bool = False

    def join(self, parts: Iterable[torch.Tensor]) -> torch.Tensor:
        """Ours to the original's."""
        tensors = list(parts)
        if self.swapped:
            tensors = list(reversed(tensors[0].chunk(2)))
        return tensors[0] if len(tensors) == 1 else torch.cat(tensors)

    def split(self, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
        """The original's to ours; the inverse of `join`."""
        if self.swapped:
            return {self.sources[0]: torch.cat(tuple(reversed(tensor.chunk(2))))}
        if len(self.sources) == 1:
            return {self.sources[0]: tensor}
        rows, rest = divmod(len(tensor), sum(self.shares))
        if rest:
            raise AdapterError(
                f"{self.target} has {len(tensor)} rows; they are those of {', '.join(self.sources)}, in the shares "
                f"{' : '.join(map(str, self.shares))}: give a file of the original's layout"
            )
        parts = torch.split(tensor, [rows * share for share in self.shares])
        return dict(zip(self.sources, parts, strict=True))


def stacks(names: Iterable[str], table: Original) -> list[Stack]:
    """What each tensor of the original is made of, for the tensors of ours with these names."""
    rows = [_stack(row) for row in table]
    by_source = {source: row for row in rows for source in row.sources}
    found: dict[str, Stack] = {}
    there = list(names)
    for name in there:
        stack = _find(name, by_source)
        found[stack.target] = stack
    missing = sorted({source for stack in found.values() for source in stack.sources} - set(there))
    if missing:
        raise AdapterError(f"tensors that are fused with others are missing: {_some(missing)}")
    return list(found.values())


def to_original(tensors: Mapping[str, torch.Tensor], table: Original) -> dict[str, torch.Tensor]:
    """Ours to the original's names and rows."""
    return {stack.target: stack.join(tensors[s] for s in stack.sources) for stack in stacks(tensors, table)}


def from_original(
    tensors: Mapping[str, torch.Tensor], table: Original, names: Iterable[str]
) -> dict[str, torch.Tensor]:
    """The original's tensors under `names`, which are all of ours; exactly those must be there."""
    wanted = {stack.target: stack for stack in stacks(names, table)}
    lacks, more = sorted(wanted.keys() - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    if lacks or more:
        found = [f"lack {_some(lacks)}"] * bool(lacks) + [f"also have {_some(more)}"] * bool(more)
        raise AdapterError(
            f"the weights are not of the network that transformer/config.json describes: they {'; they '.join(found)}\n"
            "  Give a file of the same variant in the layout of the original repository, or the right folder."
        )
    return {name: part for target, stack in wanted.items() for name, part in stack.split(tensors[target]).items()}


def original_state(file: Path, table: Original, wanted: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights in a file of the original's layout, for a network whose state has names and shapes as `wanted`."""
    state = from_original(read_weights(file), table, wanted)
    shapes = {name: (tuple(state[name].shape), tuple(tensor.shape)) for name, tensor in wanted.items()}
    wrong = [f"{name} {found}, not {needed}" for name, (found, needed) in shapes.items() if found != needed]
    if wrong:
        raise AdapterError(
            f"{file} has other sizes than transformer/config.json describes: {_some(wrong)}\n"
            "  Give a file of the same variant, or the right folder."
        )
    return state


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """The network's tensors of a safetensors file or of a checkpoint of torch, which may hold them under `module`."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor]
    try:
        if file.suffix == ".safetensors":
            tensors = load_file(file)
        else:
            found = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            tensors = found.get("module", found) if isinstance(found, dict) else {}
    except (SafetensorError, UnpicklingError, RuntimeError, OSError) as error:
        raise AdapterError(
            f"{file} cannot be read as weights: {str(error).splitlines()[0]}\n"
            "  Give a .safetensors file, or a checkpoint of torch that holds tensors and nothing else."
        ) from error
    strange = [str(name) for name, tensor in tensors.items() if not isinstance(tensor, torch.Tensor)]
    if strange or not tensors:
        raise AdapterError(f"{file} holds no plain mapping of names to tensors (found {_some(strange) or 'nothing'})")
    for prefix in PREFIXES:
        if any(name.startswith(prefix) for name in tensors):
            return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
    return tensors


def common_dtype(tensors: Mapping[str, torch.Tensor]) -> torch.dtype:
    """The type of most elements; one that a network can compute in, or it is no float model."""
    sizes: Counter[torch.dtype] = Counter()
    for tensor in tensors.values():
        sizes[tensor.dtype] += tensor.numel()
    dtype = sizes.most_common(1)[0][0]
    if dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise AdapterError(
            f"most weights are {dtype}: they were rounded before; what is read is bfloat16, float16 or float32: give "
            "the file of the float model, or say `model.torch_dtype` to take them for one"
        )
    return dtype


def _stack(row: tuple[str, str] | Fused | Swapped) -> Stack:
    """A row of a table; `{}` still stands for the number of a block."""
    match row:
        case Fused(sources, target, shares):
            return Stack(target, sources, shares)
        case Swapped(source, target):
            return Stack(target, (source,), swapped=True)
        case (source, target):
            return Stack(target, (source,))


def _find(name: str, table: Mapping[str, Stack]) -> Stack:
    """The row that a tensor, or its module, stands in, with full names."""
    module, dot, leaf = name.rpartition(".")
    for stem, ending in ((name, ""), (module, dot + leaf)):
        for pattern, number in ((stem, ""), _numbered(stem)):
            if pattern in table:
                row = table[pattern]
                target, *sources = (part.format(number) + ending for part in (row.target, *row.sources))
                return Stack(target, tuple(sources), row.shares, row.swapped)
    raise AdapterError(f"the tensor {name} stands in no row of the table of original names: add it to the adapter")


def _numbered(name: str) -> tuple[str, str]:
    """`blocks.{}.norm` and `3` of `blocks.3.norm`."""
    found = re.search(r"\.(\d+)(?=\.|$)", name)
    return (f"{name[: found.start(1)]}{{}}{name[found.end(1) :]}", found.group(1)) if found else (name, "")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
