"""GPTQ (arXiv:2210.17323): push each column's rounding error onto the columns not yet rounded, so that outputs keep.

With `target: asymmetric` the weight first moves to where, on the inputs that quantized blocks really give, it comes
closest to the float output (GPTAQ, arXiv:2504.02692; Qronos, arXiv:2505.11695).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from llmc.algorithms.base import Algorithm
from llmc.calib.held_out import APART, Fit

if TYPE_CHECKING:
    from torch import Tensor

    from llmc.calib.block import BlockStep
    from llmc.calib.group import Group
    from llmc.calib.trial import Moments, Seen, Solved
    from llmc.layers.linear import QuantLinear
    from llmc.numerics.quantize import Quantized
    from llmc.numerics.spec import TensorSpec


Range = Literal["absmax", "mse", "percentile", "search"]  # of each scale


class GPTQ(Algorithm):
    """Round column by column, and let later columns make up for the error of earlier ones."""

    name: Literal["GPTQ"] = "GPTQ"
    damping: float = Field(0.01, gt=0, le=1, description="added to each channel's energy, as a share of it")
    act_order: bool = Field(True, description="round the columns with the largest inputs first")
    range: Range = Field(
        "mse",
        description="the range of each scale: the whole, that of least squared error, most magnitudes, or the one of "
        "several whose solution disturbs an output channel least (6 times the work of a solution)",
    )
    percentile: float = Field(99.9, gt=50, le=100, description="with range percentile: how many magnitudes it holds")
    propagate: Literal["quantized", "float"] = Field(
        "quantized", description="what a block is observed on: outputs of the quantized blocks before it, or float ones"
    )
    target: Literal["symmetric", "asymmetric"] = Field(
        "symmetric", description="what is aimed at: the float layer on the inputs observed, or on its float inputs"
    )
    pull: float = Field(
        10.0,
        gt=0,
        le=1e6,
        description="with target asymmetric: what draws the weight back to the float one, in units of damping, lest it "
        "fits the calls that were observed and no others",
    )
    precision: Literal["float32", "float64"] = Field("float32", description="what the Gram matrices are added up in")

    @model_validator(mode="after")
    def _needs_two_streams(self) -> GPTQ:
        if self.target == "asymmetric" and self.propagate == "float":
            raise ValueError("target: asymmetric compares float with quantized inputs; write `propagate: quantized`")
        return self

    @property
    def leaves(self) -> frozenset[str]:
        return frozenset({"rounded"})

    @property
    def needs(self) -> frozenset[str]:
        kinds = ("gram", "cross") if self.target == "asymmetric" else ("gram",)
        names = [kind if self.precision == "float32" else f"{kind}64" for kind in kinds]
        return frozenset([*names, *(name + APART for name in names)])

    @property
    def sequential(self) -> bool:
        return self.propagate == "quantized"

    @property
    def within_block(self) -> bool:
        return self.target == "asymmetric"  # else a linear would correct once more what those before it have corrected

    def apply(self, block: BlockStep) -> None:
        for group in block.groups:
            layers = {name: layer for name, layer in zip(group.names, group.linears, strict=True) if layer.spec.weight}
            if layers:
                seen = self._seen(group, block)
                self._fit_formats(list(layers.values()), seen)
                self._round(layers, seen, block)
                seen.forget()

    def _fit_formats(self, layers: list[QuantLinear], seen: Seen) -> None:
        """Where a format has levels to choose, linears that read one input choose them together: a target may store
        some of those as one."""
        for spec in dict.fromkeys(layer.spec for layer in layers):
            alike = [layer for layer in layers if layer.spec == spec]
            if spec.weight is not None and spec.weight.format.is_to_be_fitted:
                energy = seen.used().gram.diagonal()
                fitted = spec.weight.format.fitted([layer.float_weight() for layer in alike], energy)
                weight = spec.weight.model_copy(update={"format": fitted})
                for layer in alike:
                    layer.spec = spec.model_copy(update={"weight": weight})

    def _round(self, layers: dict[str, QuantLinear], seen: Seen, block: BlockStep) -> None:
        """Solve for all calls, damped as a trial on some of them says. Layers that this does not help on those kept
        apart aim at the float layer on the inputs observed, if they aimed at more, and are else rounded to nearest."""
        from llmc.calib.trial import choose_damping

        trial = choose_damping(
            lambda damping: self._fits(list(layers.values()), seen, damping), self.damping, block.samples
        )
        block.fits.update(zip(layers, trial.fits, strict=True))
        fits = zip(layers.items(), trial.fits, strict=True)
        others = {name: layer for (name, layer), fit in fits if not trial.pays(fit, seen.group)}
        kept = [layer for name, layer in layers.items() if name not in others]
        if others and seen.cross is not None:
            self._round(others, seen.symmetric(keep=bool(kept)), block)
        elif others:
            block.rejected[f"{self.name} of layers that it does not help on calls kept apart"] += len(others)
            for layer in others.values():
                layer.round()
        if not kept:
            return
        solved, damping = self._solved(kept, [slice(None)] * len(kept), seen.all(), trial.damping, self.range)
        for layer, solution in zip(kept, solved, strict=True):
            layer.round(solution.codes)
            if solution.turned is not None and layer.state.lowrank is not None:
                up, down = layer.state.lowrank
                layer.state = replace(layer.state, lowrank=(up + solution.turned, down))
        if damping > self.damping:
            block.rejected[f"{self.name} damping"] += 1

    def _fits(self, layers: list[QuantLinear], seen: Seen, damping: float) -> list[Fit]:
        """How solutions for the calls used fare on those kept apart: told from some output channels of each layer."""
        from llmc.calib.probe import channels_of
        from llmc.calib.trial import fits_of

        channels = [channels_of(layer.spec.weight, layer.out_features) for layer in layers]
        once = "mse" if self.range == "search" else self.range  # how calls are fitted does not hang on each scale
        solved, _ = self._solved(layers, channels, seen.used(), damping, once)
        return fits_of(layers, channels, solved, seen)

    def _solved(
        self, layers: list[QuantLinear], channels: list[slice], moments: Moments, damping: float, by: Range
    ) -> tuple[list[Solved], float]:
        """Solutions for layers that read one input, and the damping that they took; the Gram matrix is used up."""
        from llmc.calib.trial import Solved
        from llmc.numerics.gptq import Factor, Rows, gptq_on_best_grid, least_squares

        gram = moments.gram
        aims: list[Rows] = [layer.float_rows(some) for layer, some in zip(layers, channels, strict=True)]
        if moments.cross is not None:
            aim = Factor.of(gram, self.pull * damping, self.act_order)
            branches = [layer.lowrank_product(some) for layer, some in zip(layers, channels, strict=True)]
            aims = [
                least_squares(weight[:] + branch, moments.cross, aim) - branch
                for weight, branch in zip(aims, branches, strict=True)
            ]
            gram = aim.gram()
        factor = Factor.of(gram, damping, self.act_order)
        codes: dict[int, Quantized] = {}
        for spec in dict.fromkeys(layer.spec.weight for layer in layers):  # linears of one grid are solved at once
            assert spec is not None
            alike = [index for index, layer in enumerate(layers) if layer.spec.weight == spec]
            own = [aims[index] for index in alike]
            rounded = gptq_on_best_grid(own, factor, spec, [self._grids(weight[:], spec, by) for weight in own])
            codes.update(zip(alike, rounded, strict=True))
        back = factor.gram() if any(layer.state.lowrank is not None for layer in layers) else None
        return [
            Solved.of(layer, weight, codes[index], back)
            for index, (layer, weight) in enumerate(zip(layers, aims, strict=True))
        ], factor.damping

    def _seen(self, group: Group, block: BlockStep) -> Seen:
        """What the solution reads of the calls."""
        from llmc.calib.trial import Seen

        exact = "" if self.precision == "float32" else "64"
        # what makes up for errors of earlier layers in a single sample does so in no other
        more = self.target == "asymmetric" and block.samples != 1
        return Seen(group, f"gram{exact}", f"cross{exact}" if more else None, block.needed_later)

    def _grids(self, weight: Tensor, spec: TensorSpec, by: Range) -> list[tuple[Tensor, Tensor | None]]:
        from llmc.numerics.clip import shrunk_scales, weight_scales
        from llmc.numerics.quantize import sliced

        slices = sliced(weight, spec)
        if by != "search":
            return [weight_scales(slices, spec, by, self.percentile)]
        # a scale that output channels share cannot be chosen for one of them
        own_scales = spec.granularity in ("per_channel", "per_group")
        return shrunk_scales(slices, spec) if own_scales else [weight_scales(slices, spec, "mse")]
