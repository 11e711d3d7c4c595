"""Where finished blocks keep their codes: on disk, as pages that the system can take back while nobody reads them."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from llmc.atomic import scratch_folder
from llmc.errors import CalibrationError
from llmc.layers.linear import QuantLinear


def put_away(layer: QuantLinear) -> None:
    """Let the layer read its codes from disk; those on a device stay there."""
    rounded = layer.state.rounded
    if rounded is not None and rounded.codes.is_cpu:
        layer.state = replace(layer.state, rounded=replace(rounded, codes=on_disk(rounded.codes)))


def on_disk(tensor: Tensor) -> Tensor:
    """The same values, mapped from a file that has no name any more: it goes when the tensor goes."""
    with scratch_folder("codes") as folder:
        file = folder / "codes"
        try:
            tensor.contiguous().view(torch.uint8).numpy().tofile(file)
        except OSError as error:
            raise CalibrationError(
                f"{file} cannot be written: {error}; make room there, or let TMPDIR name a folder on another disk"
            ) from error
        return torch.from_file(str(file), size=tensor.numel(), dtype=tensor.dtype).reshape(tensor.shape)
