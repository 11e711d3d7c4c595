"""How far each layer's output is from float, on rows and output channels that stand for all."""

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
    """The error of every linear of a finished block; empty where no rows were kept."""
    return {
        name: _layer_error(layer, *_rows(group))
        for group in block.groups if "rows" in group.stats
        for name, layer in zip(group.names, group.linears, strict=True)
    }  # fmt: skip


def _rows(group: Group) -> list[torch.Tensor]:
    """Some rows, and the denoising step of each if it was noted."""
    kinds = [kind for kind in ("rows", "row_steps") if kind in group.stats]
    return [spread(group.stats[kind], ROWS).to(group.device, torch.float32) for kind in kinds]


def _layer_error(layer: QuantLinear, rows: torch.Tensor, steps: torch.Tensor | None = None) -> LayerError:
    state = layer.state
    # a change of what the layer gives is undone over all of its channels
    some = slice(None) if state.out_transforms else channels_of(layer.spec.weight, layer.out_features)
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
        relative_error(layer.restored_output(output), wanted),
        relative_error(plain, wanted),
        relative_error(layer.restored_weight(some), weight),
    )


def _rounded_act(layer: QuantLinear, x: torch.Tensor, steps: torch.Tensor | None) -> torch.Tensor:
    """The rows as the layer rounds its input, each in the step that it was read in."""
    if layer.spec.act is not None and layer.state.steps is not None and steps is not None:
        return layer.state.steps.rounded(x, steps[:, 0].long(), layer.spec.act)
    return fake_quantize(x, layer.spec.act, *(layer.state.static or ()))
