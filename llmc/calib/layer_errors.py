"""How far each layer's weight and output are from float, on rows and output channels that stand for all."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import linear

from llmc.calib.block import BlockStep, LayerError
from llmc.calib.group import Group
from llmc.calib.probe import ROWS, channels_of, rounded_product, spread
from llmc.calib.teacher import relative_error
from llmc.layers.linear import QuantLinear
from llmc.numerics.quantize import fake_quantize


@torch.no_grad()
def layer_errors(block: BlockStep) -> dict[str, LayerError]:
    """The error of every linear of a finished block; where no rows were kept of its rounded weight alone."""
    return {
        name: replace(_layer_error(layer, *_rows(group)), fit=block.fits.get(name))
        for group in block.groups
        for name, layer in zip(group.names, group.linears, strict=True)
        if "rows" in group.stats or layer.state.rounded is not None
    }


def _rows(group: Group) -> list[Tensor]:
    """Some rows, and the denoising step of each if it was noted."""
    kinds = [kind for kind in ("rows", "row_steps") if kind in group.stats]
    return [spread(group.stats[kind], ROWS).to(group.device, torch.float32) for kind in kinds]


def _layer_error(layer: QuantLinear, rows: Tensor | None = None, steps: Tensor | None = None) -> LayerError:
    some = _channels(layer)
    weight, rounded = layer.weight[some].float(), layer.rounded_weight(some)
    of_weight = relative_error(layer.restored(rounded, some), weight)
    if rows is None:
        return LayerError(of_weight)
    wanted, x = linear(rows, weight), rows
    plain = rounded_product(rows, weight, layer.spec)
    for transform in layer.state.transforms:
        x = transform.input(x)
    output = linear(_rounded_act(layer, x, steps), rounded)
    if layer.state.lowrank is not None:
        up, down = layer.state.lowrank
        output = output + linear(linear(x, down), up[some])
    recipe = relative_error(layer.restored_output(output, some), wanted)
    return LayerError(of_weight, recipe, relative_error(plain, wanted))


def _channels(layer: QuantLinear) -> slice:
    # a rotation of what the layer gives is undone over all of its channels
    return slice(None) if layer.mixes_outputs else channels_of(layer.spec.weight, layer.out_features)


def _rounded_act(layer: QuantLinear, x: Tensor, steps: Tensor | None) -> Tensor:
    """The rows as the layer rounds its input, each in the step that it was read in."""
    if layer.spec.act is not None and layer.state.steps is not None and steps is not None:
        return layer.state.steps.rounded(x, steps[:, 0].long(), layer.spec.act)
    return fake_quantize(x, layer.spec.act, *(layer.state.static or ()))
