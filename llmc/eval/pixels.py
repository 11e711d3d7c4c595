"""What metrics see in frames: brightness, edges, colour. Frames are uint8 (frames, height, width, 3)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from torch import Tensor

LUMA = (0.2126, 0.7152, 0.0722)  # BT.709, as the mp4 files are tagged
TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))
WHITE = (0.95047, 1.0, 1.08883)  # D65
EPSILON, KAPPA = 216 / 24389, 24389 / 27  # of CIE 1976, where the cube root becomes a line


def luma(frame: Tensor) -> Tensor:
    """The brightness of a frame in grey levels, (height, width)."""
    return frame.double() @ torch.tensor(LUMA, dtype=torch.float64)


def brightness(frames: Tensor) -> Iterator[Tensor]:
    """The `luma` of one frame after the other: all at once would take eight times the bytes of the video."""
    return map(luma, frames)


def padded(image: Tensor) -> Tensor:
    """An image of (height, width) with its outermost rows and columns repeated once."""
    rows = torch.cat((image[:1], image, image[-1:]))
    return torch.cat((rows[:, :1], rows, rows[:, -1:]), dim=1)


def lab(frame: Tensor) -> Tensor:
    """CIE L*a*b* of an sRGB frame under D65: in it a distance of about 2 is just seen."""
    value = frame.double() / 255
    linear = torch.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)
    xyz = linear @ torch.tensor(TO_XYZ, dtype=torch.float64).T / torch.tensor(WHITE, dtype=torch.float64)
    x, y, z = torch.where(xyz > EPSILON, xyz ** (1 / 3), (KAPPA * xyz + 16) / 116).unbind(-1)
    return torch.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), dim=-1)


def read_picture(path: Path, height: int, width: int) -> Tensor:
    """A picture as a frame of that size: scaled until it covers the frame, and cut from its middle."""
    import numpy as np
    from PIL import Image, ImageOps

    with Image.open(path) as picture:
        fitted = ImageOps.fit(picture.convert("RGB"), (width, height), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(fitted).copy())
