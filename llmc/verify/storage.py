"""What readers of every target share: tensors beside a weight, readings of it, and packed small floats as values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from llmc.verify.files import Entry

Shape = tuple[int, ...]
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


@dataclass(frozen=True)
class Leaf:
    """A tensor beside a weight: the types and shapes that do."""

    dtypes: tuple[torch.dtype, ...]
    shapes: tuple[Shape, ...]
    scale: bool = True  # finite, positive, and exact in what the loader keeps

    def fits(self, entry: Entry) -> bool:
        """Whether a tensor of a file is that."""
        return entry.dtype in self.dtypes and entry.shape in self.shapes


@dataclass(frozen=True)
class Reading:
    """One way to read a weight; only the first of a storage's readings is right, the others are faults with a name."""

    fault: str
    weight: Tensor  # (out, in) float32


def short(dtype: torch.dtype) -> str:
    """The name of a type alone."""
    return str(dtype).removeprefix("torch.")


def unpack(packed: Tensor, bits: int) -> Tensor:
    """The float32 values of e2m1, e3m2 or e4m3 codes, packed from the low bits up."""
    if bits == 8:
        return packed.view(torch.float8_e4m3fn).float()
    if bits == 4:
        table = torch.tensor([*E2M1, *(-value for value in E2M1)])
        return torch.stack([table[(packed & 0xF).int()], table[(packed >> 4).int()]], -1).flatten(-2)
    three = packed.reshape(packed.shape[0], -1, 3).int()
    stream = three[..., 0] | three[..., 1] << 8 | three[..., 2] << 16
    code = torch.stack([stream >> 6 * i & 0x3F for i in range(4)], -1).flatten(-2)
    exponent, fraction = code >> 2 & 7, (code & 3) / 4
    magnitude = torch.where(exponent == 0, fraction * 0.25, (1 + fraction) * 2.0 ** (exponent - 3))
    return torch.where(code >> 5 == 1, -magnitude, magnitude)
