"""What the autoencoder holds while it works: the most of all, where videos are long."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from llmc.estimate.shapes import Shapes
from llmc.estimate.tracing import traced
from llmc.models.components import empty_component
from llmc.models.samples import Sampling

SHORT, LONGER = 17, 33  # frames: what each more takes is told from these two
SMALL = 64  # pixels of a side that tell how many latents there are for them
TILED = ("HunyuanVideo",)  # families whose autoencoder works on some of a video at a time


def encoding(shapes: Shapes, how: Sampling) -> int:
    """The most bytes of a device that are held while a picture, and the empty frames after it, are encoded; 0 where
    samples have none."""
    if not shapes.adapter.needs_image:
        return 0
    return _over_frames(shapes, how, _encode)


def decoding(shapes: Shapes, how: Sampling) -> int:
    """The most bytes of a device that are held while a video is decoded; 0 where the pipeline has nothing that does."""
    return _over_frames(shapes, how, _decode)


def _over_frames(shapes: Shapes, how: Sampling, work: Callable[[Any, tuple[int, ...], bool], int]) -> int:
    module: Any = empty_component(shapes.index, "vae")
    if module is None or not hasattr(module, "decode"):
        return 0
    module = module.to(shapes.dtype if shapes.adapter.makes_images else torch.float32)
    if shapes.adapter.name in TILED:
        module.enable_tiling()
    if shapes.adapter.makes_images:
        return work(module, (how.height, how.width), shapes.fused)
    if how.num_frames <= LONGER:
        return work(module, (how.num_frames, how.height, how.width), shapes.fused)
    short, longer = (work(module, (frames, how.height, how.width), shapes.fused) for frames in (SHORT, LONGER))
    return longer + round((longer - short) * (how.num_frames - LONGER) / (LONGER - SHORT))


def _encode(module: Any, sizes: tuple[int, ...], fused: bool) -> int:
    with traced(fused) as trace:
        _latents(module, _pixels(module, sizes))
        return trace.peak


def _decode(module: Any, sizes: tuple[int, ...], fused: bool) -> int:
    *frames, height, width = sizes
    with traced(fused) as trace:
        batch, channels, *times, rows, columns = _latents(module, _pixels(module, (*frames, SMALL, SMALL))).shape
        latents = _like(module, batch, channels, *times, rows * height // SMALL, columns * width // SMALL)
        trace.forget()
        module.decode(latents, return_dict=False)
        return trace.peak


def _latents(module: Any, pixels: Tensor) -> Tensor:
    found: Tensor = module.encode(pixels).latent_dist.mode()
    return found


def _pixels(module: Any, sizes: tuple[int, ...]) -> Tensor:
    return _like(module, 1, 3, *sizes)


def _like(module: Any, *sizes: int) -> Tensor:
    return torch.empty(sizes, dtype=module.dtype, device="meta")
