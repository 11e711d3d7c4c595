"""The networks of LPIPS (Zhang et al. 2018, arXiv 1801.03924): classifiers of ImageNet, and what each channel counts.

Their layers are tables here; the sizes come with the weights, under the names that torchvision and lpips gave them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from llmc.errors import LlmcError
from llmc.files.state_dict import Unreadable, load_saved, named_tensors

if TYPE_CHECKING:
    from torch import Tensor

Net = Literal["alex", "vgg", "squeeze"]
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of ImageNet's colours, for values from -1 to 1
TINY = 1e-10
SMALLEST = 32  # pixels a side; of less, the last layers of AlexNet have nothing to see
TRUNK = re.compile(r"(?:features|net\.slice\d+)\.(\d+\.[\w.]+)")
HEAD = re.compile(r"lins?\.?(\d+)\.model\.1\.weight")


@dataclass(frozen=True)
class Conv:
    """A convolution with its ReLU; `tap`: what it gives is compared."""

    name: str
    tap: bool = False
    stride: int = 1
    padding: int = 1


@dataclass(frozen=True)
class Pool:
    """The largest value of each window, moved by two."""

    size: int
    ceil: bool = False


@dataclass(frozen=True)
class Fire:
    """SqueezeNet's block (arXiv 1602.07360): few channels, read once as they are and once with their neighbours."""

    name: str
    tap: bool = False


Layer = Conv | Pool | Fire
LAYERS: dict[Net, tuple[Layer, ...]] = {
    "alex": (
        Conv("0", True, stride=4, padding=2), Pool(3), Conv("3", True, padding=2), Pool(3), Conv("6", True),
        Conv("8", True), Conv("10", True),
    ),
    "vgg": (
        Conv("0"), Conv("2", True), Pool(2), Conv("5"), Conv("7", True), Pool(2), Conv("10"), Conv("12"),
        Conv("14", True), Pool(2), Conv("17"), Conv("19"), Conv("21", True), Pool(2), Conv("24"), Conv("26"),
        Conv("28", True),
    ),
    "squeeze": (
        Conv("0", True, stride=2, padding=0), Pool(3, True), Fire("3"), Fire("4", True), Pool(3, True), Fire("6"),
        Fire("7", True), Pool(3, True), Fire("9", True), Fire("10", True), Fire("11", True), Fire("12", True),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Network:
    """One network with its weights; `distances` is all it does."""

    layers: tuple[Layer, ...]
    trunk: Mapping[str, Tensor]
    heads: tuple[Tensor, ...]  # (channels,) of each tap

    def distances(self, reference: Tensor, candidate: Tensor) -> Tensor:
        """LPIPS of each frame of two videos, (frames,)."""
        taps = zip(self._seen(reference), self._seen(candidate), self.heads, strict=True)
        return torch.stack([_distance(r, c, head) for r, c, head in taps]).sum(0)

    def _seen(self, frames: Tensor) -> Iterator[Tensor]:
        """What each tap gives, (frames, channels, height, width)."""
        x = enlarged(frames).permute(0, 3, 1, 2).float() / 127.5 - 1
        x = (x - torch.tensor(SHIFT).view(1, 3, 1, 1)) / torch.tensor(SCALE).view(1, 3, 1, 1)
        for layer in self.layers:
            x = self._run(layer, x)
            if not isinstance(layer, Pool) and layer.tap:
                yield x

    def _run(self, layer: Layer, x: Tensor) -> Tensor:
        if isinstance(layer, Pool):
            return torch.nn.functional.max_pool2d(x, layer.size, 2, ceil_mode=layer.ceil)
        if isinstance(layer, Conv):
            return self._conv(layer.name, x, layer.stride, layer.padding)
        few = self._conv(f"{layer.name}.squeeze", x)
        wide = self._conv(f"{layer.name}.expand1x1", few), self._conv(f"{layer.name}.expand3x3", few, padding=1)
        return torch.cat(wide, dim=1)

    def _conv(self, name: str, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
        return torch.conv2d(x, self.trunk[f"{name}.weight"], self.trunk[f"{name}.bias"], stride, padding).relu()


def load_network(net: Net, backbone: Path, heads: Path) -> Network:
    """The network `net`: its layers as torchvision's classifier has them, its heads as lpips has them."""
    trunk = _named(backbone, TRUNK)
    channels = _named(heads, HEAD)
    wanted = [name for layer in LAYERS[net] if not isinstance(layer, Pool) for name in _weights_of(layer)]
    if missing := [name for name in wanted if name not in trunk]:
        raise LlmcError(
            f"{backbone} has no features.{missing[0]}; the backbone of {net} is torchvision's file of that classifier"
        )
    count = sum(layer.tap for layer in LAYERS[net] if not isinstance(layer, Pool))
    if sorted(channels) != [str(index) for index in range(count)]:
        raise LlmcError(f"{heads} has heads {sorted(channels)}; those of {net} are {count}: name lpips' file of {net}")
    return Network(LAYERS[net], trunk, tuple(channels[str(index)].float().flatten() for index in range(count)))


def enlarged(frames: Tensor) -> Tensor:
    """Frames with a side below 32 pixels, larger by a whole factor, nearest neighbour."""
    factor = -(-SMALLEST // min(frames.shape[1:3]))
    return frames.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2) if factor > 1 else frames


def _distance(reference: Tensor, candidate: Tensor, head: Tensor) -> Tensor:
    """Squared difference of the directions of two taps, weighted by channel, mean over the frame: (frames,)."""
    r, c = (tap / (tap.square().sum(1, keepdim=True).sqrt() + TINY) for tap in (reference, candidate))
    return torch.einsum("fchw,c->fhw", (r - c).square(), head).mean((1, 2))


def _weights_of(layer: Conv | Fire) -> list[str]:
    if isinstance(layer, Conv):
        return [f"{layer.name}.weight", f"{layer.name}.bias"]
    convs = [f"{layer.name}.{conv}" for conv in ("squeeze", "expand1x1", "expand3x3")]
    return [name for conv in convs for name in (f"{conv}.weight", f"{conv}.bias")]


def _named(path: Path, pattern: re.Pattern[str]) -> dict[str, Tensor]:
    """The tensors of a file whose name the pattern knows, under the part of it that counts."""
    try:
        tensors = named_tensors(path, load_saved(path, LlmcError, mmap=False), LlmcError)
    except Unreadable as broken:
        raise LlmcError(f"{path} cannot be read: {broken}; copy or download it again") from broken
    found = {}
    for name, tensor in tensors.items():
        if (match := pattern.fullmatch(name)) is not None:
            found[match[1]] = tensor
    return found
