"""An autoencoder that decodes a video tile by tile, the tiles spread over ranks; every rank gets the whole video."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from torch import Tensor, distributed, nn


def spread_tiles(vae: nn.Module) -> None:
    """Let every later `decode` be a common one of all ranks, which give it the same latents.

    `decode` runs twice: first to see which tiles there are, each rank decoding its own, then to put them all together.
    """
    decode: Callable[..., Any] = vae.decode  # type: ignore[assignment]

    @wraps(decode)
    def common(*args: Any, **kwargs: Any) -> Any:
        tiles: list[Tensor] = []
        with _in_place_of(vae.decoder, lambda run, z: _own_tile(run, z, vae, tiles)):  # type: ignore[arg-type]
            decode(*args, **kwargs)
        for number, tile in enumerate(tiles):
            distributed.broadcast(tile, number % distributed.get_world_size())
        decoded = iter(tiles)
        with _in_place_of(vae.decoder, lambda run, z: next(decoded)):  # type: ignore[arg-type]
            return decode(*args, **kwargs)

    vae.decode = common  # type: ignore[assignment]


def _own_tile(run: Callable[[Tensor], Tensor], z: Tensor, vae: Any, tiles: list[Tensor]) -> Tensor:
    """The tile decoded if it is this rank's turn, else room for it."""
    batch, _, frames, height, width = z.shape
    if len(tiles) % distributed.get_world_size() == distributed.get_rank():
        tile = run(z).contiguous()
    else:
        frames = (frames - 1) * vae.temporal_compression_ratio + 1
        height, width = height * vae.spatial_compression_ratio, width * vae.spatial_compression_ratio
        tile = z.new_zeros(batch, vae.config.out_channels, frames, height, width)
    tiles.append(tile)
    return tile.clone()  # where tiles overlap they are blended in place


@contextmanager
def _in_place_of(
    decoder: nn.Module, forward: Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
) -> Iterator[None]:  # fmt: skip
    run = decoder.forward
    decoder.forward = lambda z: forward(run, z)
    try:
        yield
    finally:
        del decoder.forward
