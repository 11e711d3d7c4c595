"""What networks of vision see in videos, for metrics: of CLIP, of DINO and other image transformers, of VideoMAE.

They are read from folders as transformers saves them; nothing is downloaded, no code of a folder is run.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from llmc.errors import AdapterError
from llmc.files.json_text import read_object
from llmc.models.libraries import Loading

if TYPE_CHECKING:
    from torch import Tensor

OF_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))  # mean, deviation
OF_IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
AT_ONCE = 8  # frames
WEIGHTS = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def embedder_problem(metric: str, folder: Path) -> str:
    """Why no network can be read from a folder, and what to put there; nothing if it can."""
    if (folder / "config.json").is_file() and any((folder / name).is_file() for name in WEIGHTS):
        return ""
    return f"{metric}: {folder} has no config.json with {' or '.join(WEIGHTS)}; put the files of the model there"


class FrameEmbedder:
    """An image transformer that turns frames into vectors; of CLIP also prompts, into the same space."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.network = _network(folder)
        self.is_clip = hasattr(self.network, "visual_projection")

    def of_frames(self, frames: Tensor) -> Tensor:
        """A vector of each frame, (frames, size): projected by CLIP, the class token of others."""
        config = self.network.config
        size = _side(config.vision_config if self.is_clip else config)
        norm = _norm(self.folder, OF_CLIP if self.is_clip else OF_IMAGENET)
        with torch.inference_mode():
            return torch.cat([self._of_images(_images(some, size, norm)) for some in torch.split(frames, AT_ONCE)])

    def of_text(self, prompt: str) -> Tensor:
        """The vector of a prompt, cut to what CLIP can read of it."""
        if not self.is_clip:
            raise AdapterError(f"{self.folder} is a {type(self.network).__name__}; only CLIP reads prompts: name one")
        words = _tokenizer(self.folder)(prompt, truncation=True, max_length=77, return_tensors="pt")
        with torch.inference_mode():
            found: Tensor = self.network.text_projection(self.network.text_model(**words).pooler_output)
        return found[0].double()

    def _of_images(self, images: Tensor) -> Tensor:
        if self.is_clip:
            found: Tensor = self.network.visual_projection(self.network.vision_model(images).pooler_output)
            return found.double()
        tokens: Tensor = self.network(images).last_hidden_state
        return tokens[:, 0].double()


class VideoEmbedder:
    """A VideoMAE that turns clips into vectors."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.network = _network(folder)
        if not hasattr(self.network.config, "num_frames"):
            raise AdapterError(
                f"{folder} is a {type(self.network).__name__}, which sees single images; name the folder of a VideoMAE"
            )

    def of_video(self, frames: Tensor) -> Tensor:
        """The mean token of each clip, (clips, size): of as many frames as it sees, one clip after the other; a shorter
        video is one clip, with frames repeated evenly."""
        length = self.network.config.num_frames
        count = max(1, len(frames) // length)
        taken = torch.arange(count * length) if len(frames) >= length else torch.linspace(0, len(frames) - 1, length)
        images = _images(frames[taken.round().long()], _side(self.network.config), _norm(self.folder, OF_IMAGENET))
        clips = images.view(count, length, *images.shape[1:])
        with torch.inference_mode():
            return torch.cat([self.network(clip[None]).last_hidden_state.mean(1) for clip in clips]).double()


def _side(config: Any) -> int:
    size = config.image_size
    return int(size if isinstance(size, int) else size[0])


def _norm(folder: Path, usual: tuple[Any, Any]) -> tuple[Any, Any]:
    """Mean and deviation of the colours that the network was trained with."""
    path = folder / "preprocessor_config.json"
    said = read_object(path, AdapterError) if path.is_file() else {}
    return said.get("image_mean", usual[0]), said.get("image_std", usual[1])


def _images(frames: Tensor, size: int, norm: tuple[Any, Any]) -> Tensor:
    """Frames as (frames, 3, size, size): the shorter side scaled to `size`, the middle cut out."""
    import numpy as np
    from PIL import Image, ImageOps

    pictures = [Image.fromarray(frame.numpy()) for frame in frames]
    fitted = [ImageOps.fit(picture, (size, size), Image.Resampling.BICUBIC) for picture in pictures]
    values = torch.from_numpy(np.stack([np.asarray(picture) for picture in fitted])).permute(0, 3, 1, 2) / 255
    mean, deviation = (torch.tensor(each).view(1, 3, 1, 1) for each in norm)
    return (values - mean) / deviation


@lru_cache(maxsize=2)  # one metric scores many videos
def _network(folder: Path) -> Any:
    from transformers import AutoModel

    with Loading(f"the network in {folder}"):
        return AutoModel.from_pretrained(folder, local_files_only=True).eval()


@lru_cache(maxsize=2)
def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    with Loading(f"the tokenizer in {folder}"):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
