"""NaN and infinity in the tensors of a network: each of them is looked at, whether it is quantized or not."""

from __future__ import annotations

from itertools import chain

from torch import nn

from llmc.errors import CalibrationError
from llmc.finite import is_finite


def check_tensors(name: str, module: nn.Module) -> None:
    """Refuse a network with a parameter or buffer that holds NaN or infinity; those on the meta device hold nothing."""
    for tensor_name, tensor in chain(module.named_parameters(), module.named_buffers()):
        if not tensor.is_meta and not is_finite(tensor.detach()):
            wrong = int((~tensor.detach().float().isfinite()).sum())
            raise CalibrationError(
                f"{name}.{tensor_name} holds NaN or infinity, in {wrong} of {tensor.numel()} values; a float model has "
                "neither: see how it was trained, merged or saved, and give another checkpoint"
            )
