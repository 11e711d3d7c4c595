"""LPIPS (Zhang et al. 2018): how far two frames are apart in what a classifier sees in them."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, Literal

import torch
from pydantic import Field

from llmc.errors import LlmcError
from llmc.eval.metrics.base import Metric, Score, mean
from llmc.eval.perceptual import Net, Network, load_network

# what torchvision publishes; lpips would fetch the same
BACKBONES: dict[Net, str] = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
    "squeeze": "squeezenet1_1-b8a52dc0.pth",
}
AT_ONCE = 4  # frames


class LPIPS(Metric):
    """Learned perceptual distance, mean of the frames; 0 where they are the same.

    The weights are two files that are looked for where others leave them: torchvision's classifier in torch.hub's
    folder, and the heads in the package lpips. Frames with a side below 32 pixels are enlarged by a whole factor.
    """

    name: Literal["lpips"] = "lpips"
    net: Net = Field("alex", description="the classifier; published figures are mostly of alex")
    backbone: Path | None = Field(None, description="torchvision's file of the classifier; default: torch.hub's folder")
    heads: Path | None = Field(None, description="lpips' file of the heads; default: that of the package lpips")
    better: ClassVar[Literal["higher", "lower"]] = "lower"
    title: ClassVar[str] = "LPIPS"

    def compare(self, reference: torch.Tensor, candidate: torch.Tensor) -> Score:
        if why := self.obstacle():
            return Score(None, why=why)
        try:
            network = _network(self.net, self.backbone_file(), self.heads_file())
        except LlmcError as broken:  # a run of hours must not end here
            return Score(None, why=f"lpips: {broken}")
        with torch.inference_mode():
            pieces = zip(torch.split(reference, AT_ONCE), torch.split(candidate, AT_ONCE), strict=True)
            per_frame = tuple(torch.cat([network.distances(r, c) for r, c in pieces]).tolist())
        return Score(mean(per_frame), per_frame)

    def obstacle(self) -> str:
        if not (backbone := self.backbone_file()).is_file():
            return (
                f"lpips: {backbone} is not there; put https://download.pytorch.org/models/{BACKBONES[self.net]} there, "
                f"or write `{{name: lpips, net: {self.net}, backbone: FILE}}`"
            )
        if not (heads := self.heads_file()).is_file():
            return (
                f"lpips: {heads} is not there; install the package that carries it (`pip install --no-deps lpips`), or "
                f"write `{{name: lpips, net: {self.net}, heads: FILE}}`"
            )
        return ""

    def backbone_file(self) -> Path:
        """Where the classifier is read from."""
        return self.backbone or Path(torch.hub.get_dir()) / "checkpoints" / BACKBONES[self.net]

    def heads_file(self) -> Path:
        """Where the heads are read from."""
        if self.heads is not None:
            return self.heads
        found = find_spec("lpips")  # looked for, not imported
        package = Path(found.origin).parent if found is not None and found.origin else Path("lpips")
        return package / "weights" / "v0.1" / f"{self.net}.pth"


@lru_cache(maxsize=1)  # one metric scores many videos
def _network(net: Net, backbone: Path, heads: Path) -> Network:
    return load_network(net, backbone, heads)
