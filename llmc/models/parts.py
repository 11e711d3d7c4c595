"""What a network is made of, as its family says it: blocks, linears that read one tensor, who absorbs a scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from llmc.errors import AdapterError
from llmc.section import Section


@dataclass(frozen=True)
class Modulation:
    """A linear of the block whose rows, in equal chunks, give a norm's output x * (1 + scale) + shift, among others.

    Some families have no shift; of some one norm reads two streams, each with a shift and a scale of its own.
    """

    linear: str
    chunks: int
    shift: tuple[int, ...]  # the numbers of the chunks
    scale: tuple[int, ...]

    def __str__(self) -> str:
        numbers = (*self.shift, *self.scale)
        said = f"chunk{'s' * (len(numbers) > 1)} {' and '.join(map(str, numbers))}"
        return f"{self.linear} ({said} of {self.chunks})"


@dataclass(frozen=True)
class Rows:
    """One of the equal chunks of a linear's rows, whose outputs are linearly the tensor: a gated linear's other half
    goes through what is not linear."""

    linear: str
    chunks: int
    number: int

    def __str__(self) -> str:
        return f"{self.linear} (chunk {self.number} of {self.chunks})"


Fold = str | Modulation | Rows  # who can absorb a scale


@dataclass(frozen=True)
class LinearGroup:
    """Linears of one block that read the same tensor, and modules of that block that could absorb a scale of it.

    `fold` names an affine norm, a modulated norm whose runtime multiplies, the linear that modulates a norm (of several
    the one that has as many rows), or the linears whose outputs are linearly that tensor; empty: nobody. `attention`
    names the module whose heads lie side by side in that tensor.
    """

    linears: tuple[str, ...]
    fold: tuple[Fold, ...] = ()
    attention: str | None = None


# as attentions call their linears for queries and keys, which can be one
ATTENDS = (("to_q", "to_k"), ("to_query", "to_key"), ("to_qkv_mlp_proj", "to_qkv_mlp_proj"))
Layout = Mapping[str, tuple[LinearGroup, ...]]  # block class name -> its groups
Expert = Literal["high_noise", "low_noise"] | None


@dataclass(frozen=True)
class Part:
    """One quantizable network of a pipeline: its module, its blocks in running order, each block class's groups.

    `folder` is where it lies in the source, and `config` what its config.json says there; where they are left out, that
    is a folder of its name, and what diffusers would write.
    """

    name: str
    module: torch.nn.Module
    blocks: Sequence[tuple[str, torch.nn.Module]]
    layout: Layout
    section: Section = Section.VIDEO_GEN
    expert: Expert = None  # which half of the schedule it denoises, if not all
    lasting: frozenset[str] = frozenset()  # block classes of which later blocks read every output, not only the last
    folder: str = ""
    config: Mapping[str, Any] | None = None

    @property
    def is_denoiser(self) -> bool:
        """Whether the pipeline asks it in each step; encoders run before."""
        return self.section == Section.VIDEO_GEN

    def kept(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> tuple[Any, dict[str, Any], Any]:
        """What a recording keeps of a call: all of it. Without outputs, calls are kept as they begin (None)."""
        return args, kwargs, output

    def read(self, output: Any) -> Any:
        """What the pipeline reads of what the network returns."""
        return output

    def groups(self, block: torch.nn.Module) -> tuple[LinearGroup, ...]:
        """The groups of `block` whose linears this variant really has (T2V has no image projections)."""
        here = dict(block.named_modules())
        found = []
        for group in self._layout_of(block):
            if linears := tuple(name for name in group.linears if name in here):
                width = here[linears[0]].in_features
                found.append(replace(group, linears=linears, fold=fitting(here, group.fold, width)))
        return tuple(found)

    def _layout_of(self, block: torch.nn.Module) -> tuple[LinearGroup, ...]:
        name = type(block).__name__
        if name not in self.layout:
            raise AdapterError(
                f"{self.name} holds blocks of the class {name}; its family has {', '.join(self.layout)}: take the "
                "config.json that belongs to these weights, or another adapter"
            )
        return self.layout[name]

    def attentions(self, block: torch.nn.Module) -> dict[str, bool]:
        """The modules of `block` that attend, which have linears for queries and keys, and whether both read the same
        tokens: if not, it is a cross-attention. Of a block that is an attention itself, the name is empty."""
        groups = [group.linears for group in self.groups(block)]
        found = {}
        for query, key in ATTENDS:
            for name in (linear for linears in groups for linear in linears if is_called(linear, query)):
                beside = name.removesuffix(query) + key
                found[name.removesuffix(query).rstrip(".")] = any({name, beside} <= set(linears) for linears in groups)
        return found


def is_called(linear: str, name: str) -> bool:
    """Whether that is the linear's name within its module."""
    return linear.rpartition(".")[2] == name


def fitting(modules: Mapping[str, torch.nn.Module], folds: Sequence[Fold], width: int | None) -> tuple[Fold, ...]:
    """Those of a group's absorbers that a block has; one that has not as many rows as its family says is refused."""
    there = [fold for fold in folds if linear_of(fold) in modules]
    wrong = {
        fold: problem for fold in there
        if not isinstance(fold, str) and (problem := _misfit(fold, modules[fold.linear], width)) is not None
    }  # fmt: skip
    found = tuple(fold for fold in there if fold not in wrong)
    if wrong and not found:
        raise AdapterError(
            f"{'; '.join(wrong.values())}: no scale of an input of {width} values can go there; say in the adapter's "
            "layout who absorbs it, or leave `fold` empty"
        )
    return found


def linear_of(fold: Fold) -> str:
    """The module that a fold stands for."""
    return fold if isinstance(fold, str) else fold.linear


def _misfit(fold: Modulation | Rows, linear: torch.nn.Module, width: int | None) -> str | None:
    rows = getattr(linear, "out_features", None)
    if rows is None or width is None or rows != fold.chunks * width:
        return f"{fold.linear} has {rows} rows, not {fold.chunks} times {width}"
    if isinstance(fold, Modulation) and getattr(linear, "bias", None) is None:
        return f"{fold.linear} has no bias, which the 1 of 1 + scale goes into"
    return None


def named_blocks(module: torch.nn.Module, *lists: str) -> list[tuple[str, torch.nn.Module]]:
    """The blocks of `module` in running order, each with its full name."""
    found = [
        (f"{name}.{index}", block)
        for name in lists
        if isinstance(blocks := getattr(module, name, None), torch.nn.Module)
        for index, block in enumerate(blocks.children())
    ]
    if not found:
        inside = ", ".join(name for name, _ in module.named_children()) or "nothing"
        raise AdapterError(
            f"the network is a {type(module).__name__} of {inside}, and none of {', '.join(lists) or 'its lists'} "
            "holds blocks; a network of this family has blocks there: take the config.json of these weights"
        )
    return found
