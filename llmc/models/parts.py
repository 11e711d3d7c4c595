"""What a network is made of, as its family says it: blocks, linears that read one tensor, who absorbs a scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from llmc.errors import AdapterError


@dataclass(frozen=True)
class Modulation:
    """A linear of the block whose rows, in equal chunks, give a norm's output x * (1 + scale) + shift, among others."""

    linear: str
    chunks: int
    shift: int  # the number of the chunk
    scale: int

    def __str__(self) -> str:
        return f"{self.linear} (chunks {self.shift} and {self.scale} of {self.chunks})"


Fold = str | Modulation  # who can absorb a scale


@dataclass(frozen=True)
class LinearGroup:
    """Linears of one block that read the same tensor, and modules of that block that could absorb a scale of it.

    `fold` names an affine norm, a modulated norm whose runtime multiplies, the linear that modulates a norm, or the
    linears whose outputs are linearly that tensor; empty: nobody. `attention` names the module whose heads lie side by
    side in that tensor.
    """

    linears: tuple[str, ...]
    fold: tuple[Fold, ...] = ()
    attention: str | None = None


Layout = Mapping[str, tuple[LinearGroup, ...]]  # block class name -> its groups
Section = Literal["video_gen", "text_encoder", "image_encoder"]  # of `quant`: what says how a part is quantized
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
    section: Section = "video_gen"
    expert: Expert = None  # which half of the schedule it denoises, if not all
    lasting: frozenset[str] = frozenset()  # block classes of which later blocks read every output, not only the last
    folder: str = ""
    config: Mapping[str, Any] | None = None

    def kept(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> tuple[Any, dict[str, Any], Any]:
        """What a recording keeps of a call: all of it. Without outputs, calls are kept as they begin (None)."""
        return args, kwargs, output

    def read(self, output: Any) -> Any:
        """What the pipeline reads of what the network returns."""
        return output

    def groups(self, block: torch.nn.Module) -> tuple[LinearGroup, ...]:
        """The groups of `block` whose linears this variant really has (T2V has no image projections)."""
        here = dict(block.named_modules())
        groups = (
            replace(
                group,
                linears=tuple(name for name in group.linears if name in here),
                fold=tuple(fold for fold in group.fold if _has(here, fold)),
            )
            for group in self._layout_of(block)
        )
        return tuple(group for group in groups if group.linears)

    def _layout_of(self, block: torch.nn.Module) -> tuple[LinearGroup, ...]:
        name = type(block).__name__
        if name not in self.layout:
            raise AdapterError(
                f"{self.name} holds blocks of the class {name}; its family has {', '.join(self.layout)}: take the "
                "config.json that belongs to these weights, or another adapter"
            )
        return self.layout[name]

    def attentions(self, block: torch.nn.Module) -> dict[str, bool]:
        """The modules of `block` that attend, which have linears `to_q` and `to_k`, and whether both read the same
        tokens: if not, it is a cross-attention."""
        groups = [group.linears for group in self.groups(block)]
        names = [linear.removesuffix(".to_q") for linears in groups for linear in linears if linear.endswith(".to_q")]
        return {name: any({f"{name}.to_q", f"{name}.to_k"} <= set(linears) for linears in groups) for name in names}


def _has(modules: Mapping[str, torch.nn.Module], fold: Fold) -> bool:
    if isinstance(fold, str):
        return fold in modules
    linear = modules.get(fold.linear)
    if not isinstance(linear, torch.nn.Linear) or linear.bias is None:  # the 1 of 1 + scale goes into the bias
        return False
    return linear.out_features == fold.chunks * linear.in_features


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
