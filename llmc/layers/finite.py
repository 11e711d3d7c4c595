"""NaN and infinity in the tensors of a network: each of them is looked at, whether it is quantized or not."""

from __future__ import annotations

from itertools import chain

from torch import Tensor, nn

from llmc.errors import CalibrationError
from llmc.finite import is_finite
from llmc.layers.lent import Lent


def check_tensors(name: str, module: nn.Module) -> None:
    """Refuse a network with a parameter or buffer that holds NaN or infinity. Those on the meta device hold nothing;
    what is lent is looked at when it comes."""
    for tensor_name, tensor in chain(module.named_parameters(), module.named_buffers()):
        if not tensor.is_meta and not isinstance(tensor, Lent):
            check_tensor(f"{name}.{tensor_name}", tensor)


def check_tensor(name: str, tensor: Tensor) -> None:
    """Refuse one tensor of a network that holds NaN or infinity."""
    if not is_finite(tensor.detach()):
        wrong = int((~tensor.detach().float().isfinite()).sum())
        raise CalibrationError(
            f"{name} holds NaN or infinity, in {wrong} of {tensor.numel()} values; a float model has neither: see how "
            "it was trained, merged or saved, and give another checkpoint"
        )
