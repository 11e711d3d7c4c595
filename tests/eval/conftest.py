"""Small moving pictures for the tests of llmc.eval."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

Clip = Callable[..., torch.Tensor]


@pytest.fixture
def clip() -> Clip:
    """A smooth pattern that moves: `clip(frames, height, width, noise)`; the noise is in grey levels."""

    def make(frames: int = 5, height: int = 48, width: int = 64, noise: float = 0.0) -> torch.Tensor:
        t = torch.arange(frames).view(-1, 1, 1, 1)
        y, x = torch.arange(height).view(1, -1, 1, 1), torch.arange(width).view(1, 1, -1, 1)
        phase = torch.tensor([0.0, 0.4, 0.9])
        picture = 128 + 60 * torch.sin((x + 3 * t) / 9 + phase) + 40 * torch.cos((y + 2 * t) / 7 + phase)
        speckle = torch.randn(picture.shape, generator=torch.Generator().manual_seed(0)) * noise
        return (picture + speckle).round().clamp(0, 255).to(torch.uint8)

    return make
