"""How far each layer's weight and output are from float, on rows and output channels that stand for all."""

from __future__ import annotations

import torch
from torch.nn.functional import linear

from llmc.calib.block import BlockStep, Group, LayerError
from llmc.calib.probe import ROWS, channels_of, spread
from llmc.calib.teacher import relative_error
from llmc.layers.linear import QuantLinear
from llmc.numerics.quantize import fake_quantize


@torch.no_grad()
def layer_errors(block: BlockStep) -> dict[str, LayerError]:
    """The error of every linear of a finished block; where no rows were kept of its rounded weight alone."""
    return {
        name: _layer_error(layer, *_rows(group)) if "rows" in group.stats else LayerError(_weight_error(layer))
        for group in block.groups
        for name, layer in zip(group.names, group.linears, strict=True)
        if "rows" in group.stats or layer.state.rounded is not None
    }


def _rows(group: Group) -> list[torch.Tensor]:
    """Some rows, and the denoising step of each if it was noted."""
    kinds = [kind for kind in ("rows", "row_steps") if kind in group.stats]
    return [spread(group.stats[kind], ROWS).to(group.device, torch.float32) for kind in kinds]


def _layer_error(layer: QuantLinear, rows: torch.Tensor, steps: torch.Tensor | None = None) -> LayerError:
    state, some = layer.state, _channels(layer)
    weight = layer.weight[some].float()
    wanted, x = linear(rows, weight), rows
    for transform in state.transforms:
        x = transform.input(x)
    rounded = layer.float_weight(some) if state.rounded is None else state.rounded.of_rows(some).dequantize()
    output = linear(_rounded_act(layer, x, steps), rounded)
    if state.lowrank is not None:
        output = output + linear(linear(x, state.lowrank[1]), state.lowrank[0][some])
    plain = linear(fake_quantize(rows, layer.spec.act), fake_quantize(weight, layer.spec.weight))
    return LayerError(
        _weight_error(layer), relative_error(layer.restored_output(output), wanted), relative_error(plain, wanted)
    )


def _weight_error(layer: QuantLinear) -> float:
    some = _channels(layer)
    return relative_error(layer.restored_weight(some), layer.weight[some].float())


def _channels(layer: QuantLinear) -> slice:
    # a change of what the layer gives is undone over all of its channels
    return slice(None) if layer.state.out_transforms else channels_of(layer.spec.weight, layer.out_features)


def _rounded_act(layer: QuantLinear, x: torch.Tensor, steps: torch.Tensor | None) -> torch.Tensor:
    """The rows as the layer rounds its input, each in the step that it was read in."""
    if layer.spec.act is not None and layer.state.steps is not None and steps is not None:
        return layer.state.steps.rounded(x, steps[:, 0].long(), layer.spec.act)
    return fake_quantize(x, layer.spec.act, *(layer.state.static or ()))
