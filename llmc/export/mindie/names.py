"""Whose names MindIE reads: those of the repository that it runs, where several of our linears may be one.

Its tables are the adapters': `mindie` among the renames where its repository is not the original one, else that of the
original.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from llmc.convert.names import Names
from llmc.errors import ExportError
from llmc.renames import Original, Renames

if TYPE_CHECKING:
    from llmc.convert.safetensors_file import LazyTensor
    from llmc.export.part import FinishedPart
    from llmc.layers.linear import QuantLinear
    from llmc.layers.steps import StepGrids
    from llmc.layers.transforms import Scale
    from llmc.numerics.quantize import Quantized, StaticGrid

EXPERTS: Mapping[str, str] = {"transformer": "high_noise_model", "transformer_2": "low_noise_model"}


@dataclass(frozen=True)
class RuntimeLinear:
    """One linear of the runtime: one of ours, or several that read one tensor, its rows being theirs in order."""

    name: str
    sources: tuple[str, ...]
    layers: tuple[QuantLinear, ...]

    @property
    def first(self) -> QuantLinear:
        return self.layers[0]

    @property
    def in_features(self) -> int:
        return self.first.in_features

    @property
    def out_features(self) -> int:
        return sum(layer.out_features for layer in self.layers)

    def rounded(self) -> tuple[Quantized, ...]:
        """What became of each weight."""
        found = tuple(layer.state.rounded for layer in self.layers)
        return tuple(rounded for rounded in found if rounded is not None)

    def codes(self) -> torch.Tensor:
        """Of the weight, (out, in), in the type in which they are kept while a layer is worked on."""
        return torch.cat([rounded.stored().cpu() for rounded in self.rounded()])

    def scales(self) -> torch.Tensor:
        """Of the weight, (out, scales of a row), float32."""
        return torch.cat([rounded.scale_grid().cpu() for rounded in self.rounded()])

    def stored_scales(self) -> torch.Tensor:
        """The scales of the weight, in the type in which their format keeps them."""
        return torch.cat([rounded.stored_scales().cpu() for rounded in self.rounded()])

    def upper_scales(self) -> torch.Tensor:
        """Of the upper level, where there are two: (out, groups of a row, 1) float32."""
        found = []
        for rounded in self.rounded():
            assert rounded.whole is not None
            found.append(rounded.whole.reshape(rounded.shape[0], -1, rounded.spec.format.whole_groups or 1)[..., :1])
        return torch.cat(found).cpu()

    def bias(self) -> torch.Tensor | None:
        """(out,) float32."""
        found = [bias for layer in self.layers if (bias := layer.final_bias()) is not None]
        return torch.cat([bias.detach().float().cpu() for bias in found]) if found else None

    def multiplier(self) -> torch.Tensor | None:
        """By what the runtime multiplies the input, (in,); None where nothing is smoothed."""
        scales = [self._scale(layer) for layer in self.layers]
        if scales[0] is None:
            return None
        self._must_agree("a smoothing scale", [scale is not None and scale.multiplier.equal(scales[0].multiplier)
                                               for scale in scales])  # fmt: skip
        return scales[0].multiplier.cpu()

    def static(self) -> StaticGrid:
        """The calibrated grid of the input."""
        grids = [layer.state.static for layer in self.layers]
        first = grids[0]
        assert first is not None
        self._must_agree("a static scale", [grid is not None and _equal(grid, first) for grid in grids])
        return first

    def steps(self) -> StepGrids:
        """The calibrated grids of the input, one for each denoising step."""
        grids = [layer.state.steps for layer in self.layers]
        first = grids[0]
        assert first is not None
        self._must_agree("the scales of a step", [
            each is not None and _equal((each.scale, each.zero), (first.scale, first.zero)) for each in grids
        ])  # fmt: skip
        return first

    def _scale(self, layer: QuantLinear) -> Scale | None:
        found: list[Scale] = list(layer.state.transforms)  # type: ignore[arg-type]
        assert len(found) <= 1, "Scales at run time are merged as they are given"
        return found[0] if found else None

    def _must_agree(self, what: str, agree: Iterable[bool]) -> None:
        if not all(agree):
            raise ExportError(
                f"{self.name} is one linear in MindIE's repository, and {', '.join(self.sources)} have not {what} in "
                "common; leave out the method that decides it for each of them alone"
            )


def table_of(renames: Mapping[str, Renames], original: Original) -> Original:
    """The names that MindIE reads of a family; empty if they are not known."""
    return renames.get("mindie") or original


def runtime_linears(part: FinishedPart) -> Iterator[RuntimeLinear]:
    """Every linear of the runtime that is quantized."""
    quantized = {name: layer for name, layer in part.layers.items() if layer.state.rounded is not None}
    shapes = {f"{name}.weight": (layer.out_features, layer.in_features) for name, layer in quantized.items()}
    table = table_of(part.renames, part.original)
    for name, sources in fused_names(table, shapes).items():
        yield RuntimeLinear(name, sources, tuple(quantized[source] for source in sources))


def fused_names(table: Original, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, ...]]:
    """Module of the runtime -> ours, by the names and shapes of our weights."""
    leaf = ".weight"
    return {
        alias.removesuffix(leaf): tuple(place.name.removesuffix(leaf) for place in places)
        for alias, places in Names(table).aliases(shapes)
    }


def runtime_tensors(part: FinishedPart, tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """Float tensors under the runtime's names, and in its shapes."""
    return Names(table_of(part.renames, part.original)).to_original(tensors)


def network_folder(part: FinishedPart) -> str:
    """Where a network's files lie: two experts have a folder each, named as the repository names them."""
    return EXPERTS[part.name] if EXPERTS.keys() <= {part.name, *part.others} else ""


def _equal(one: Sequence[torch.Tensor | None], other: Sequence[torch.Tensor | None]) -> bool:
    return all(
        (a is None and b is None) or (a is not None and b is not None and a.equal(b))
        for a, b in zip(one, other, strict=True)
    )
