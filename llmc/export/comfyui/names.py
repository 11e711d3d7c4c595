"""Tensors in the names and rows of the original repository, and only then in the order in which kernels read them."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import torch

from llmc.export.comfyui.forms import form_of
from llmc.export.fused import original_tensors
from llmc.export.part import FinishedPart, LazyTensor
from llmc.renames import Swapped, fused_layers

if TYPE_CHECKING:
    from llmc.layers.linear import QuantLinear


def in_original_names(part: FinishedPart, tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Layers that are one in the original become one while their tensors still lie row by row."""
    found = original_tensors(part.original, tensors)
    for module, layers in original_layers(part).items():
        form = form_of(layers[0].spec)
        for leaf, layout in {} if form is None else form.layouts.items():
            found[f"{module}.{leaf}"] = laid_out(found[f"{module}.{leaf}"], layout)
    return found


def original_layers(part: FinishedPart) -> dict[str, tuple[QuantLinear, ...]]:
    """The original's name of each rounded layer -> those of ours that it is made of, in the order of its rows."""
    from llmc.convert.names import Names

    names, fused = Names(part.original), fused_layers(part.original, part.layers)
    whole = {source: (module, sources) for module, sources in fused.items() for source in sources}
    found = {}
    for name, layer in part.layers.items():
        module, sources = whole.get(name, (names.original_module(name) or name, (name,)))
        if layer.state.rounded is not None:
            found[module] = tuple(part.layers[source] for source in sources)
    return found


def swapped_layers(part: FinishedPart) -> frozenset[str]:
    """The original's names of layers whose two halves of rows change places there."""
    from llmc.convert.names import Names

    names, swapped = Names(part.original), [row.source for row in part.original if isinstance(row, Swapped)]
    patterns = [re.compile(re.escape(source).replace(r"\{\}", r"\d+")) for source in swapped]
    found = (name for name in part.layers if any(pattern.fullmatch(name) for pattern in patterns))
    return frozenset(names.original_module(name) or name for name in found)


def laid_out(rows: LazyTensor, layout: Callable[[torch.Tensor], torch.Tensor]) -> LazyTensor:
    """A tensor in another order; its header is known at once."""
    empty = layout(torch.empty(rows.shape))
    return LazyTensor(empty.dtype, tuple(empty.shape), lambda: layout(rows.make()))
