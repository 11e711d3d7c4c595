"""Where what waits long keeps its values, as codes of finished blocks do: on disk, as pages that the system can take
back while nobody reads them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from llmc.atomic import scratch_folder
from llmc.errors import CalibrationError
from llmc.layers.linear import LayerState, QuantLinear


def put_away(layer: QuantLinear) -> None:
    """Let the layer read its codes from disk; those of a layer that stays on a device stay there."""
    state = waiting(layer)
    if state.rounded is not None and state.rounded.codes.is_cpu:
        rounded = replace(state.rounded, codes=on_disk(state.rounded.codes))
        layer.state = replace(state, rounded=rounded)


def waiting(layer: QuantLinear) -> LayerState:
    """Its state with the codes where they wait while nobody runs the layer."""
    rounded = layer.state.rounded
    if rounded is None or not layer.takes_turns:
        return layer.state
    return replace(layer.state, rounded=replace(rounded, codes=rounded.codes.cpu()))


def on_disk(tensor: Tensor) -> Tensor:
    """Values, mapped from a file that has no name any more: it goes when the tensor goes."""
    with scratch_folder("codes") as folder:
        file = folder / "codes"
        try:
            tensor.contiguous().view(torch.uint8).numpy().tofile(file)
        except OSError as error:
            raise CalibrationError(
                f"{file} cannot be written: {error}; make room there, or let TMPDIR name a folder on another disk"
            ) from error
        return torch.from_file(str(file), size=tensor.numel(), dtype=tensor.dtype).reshape(tensor.shape)
