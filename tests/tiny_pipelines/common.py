"""What tiny pipelines are made of: tokenizers, text encoders, samples."""

from __future__ import annotations

import atexit
import json
import shutil
import string
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

from llmc.models.samples import Sampling

Tiny = dict[str, tuple[Callable[[Path], None], Sampling]]  # adapter name -> how to save a pipeline of it, how to run it

SENTENCES = [
    "a red circle moving left",
    "a green square moving right",
    "a blue triangle moving up",
    "blurry, low quality",
]
SPACE = "\u2581"


def made_once(save: Callable[..., None]) -> Callable[..., None]:
    """`save`, which makes each pipeline once in a process, and copies it for every other test that wants one."""

    @cache
    def made(**options: Any) -> Path:
        folder = Path(mkdtemp(dir=_folder_of_the_process()))
        save(folder, **options)
        return folder

    @wraps(save)
    def copied(folder: Path, **options: Any) -> None:
        shutil.copytree(made(**options), folder, dirs_exist_ok=True)

    return copied


@cache
def _folder_of_the_process() -> str:
    folder = TemporaryDirectory(prefix="tiny-pipelines-")
    atexit.register(folder.cleanup)
    return folder.name


def t5_tokenizer() -> Any:
    """A T5 tokenizer of some words, and letters for all others; trained ones differ from one training to the next."""
    from transformers import T5Tokenizer

    special, letters = ["<pad>", "</s>", "<unk>"], [SPACE, *string.ascii_lowercase, ","]
    words = sorted({SPACE + word for sentence in SENTENCES for word in sentence.split()})
    scores = (
        [(piece, 0.0) for piece in special] + [(piece, -3.0) for piece in words] + [(piece, -6.0) for piece in letters]
    )
    pieces = Tokenizer(models.Unigram(scores, unk_id=2))
    pieces.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    pieces.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    pieces.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return T5Tokenizer(tokenizer_object=pieces, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def umt5(width: int) -> tuple[Any, torch.nn.Module]:
    """A T5 tokenizer, and an UMT5 encoder of two blocks; of two heads, each of which costs a table of 512 by 512."""
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(vocab_size=512, d_model=width, d_kv=width // 2, d_ff=64, num_layers=2, num_heads=2)
    return t5_tokenizer(), UMT5EncoderModel(config).eval()


def t5(width: int, length: int) -> tuple[Any, torch.nn.Module]:
    """A tokenizer of at most `length` tokens, and a T5 encoder of two blocks."""
    from transformers import T5Config, T5EncoderModel

    tokenizer = t5_tokenizer()
    tokenizer.model_max_length = length
    config = T5Config(vocab_size=512, d_model=width, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    return tokenizer, T5EncoderModel(config).eval()


def clip_tokenizer() -> Any:
    """A CLIP tokenizer that knows bytes, and no longer pieces."""
    from transformers import CLIPTokenizer

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    return CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[], model_max_length=77)


def clip_text(width: int, projected: bool = False) -> torch.nn.Module:
    """A CLIP text encoder of three blocks, which `clip_tokenizer` feeds; with its projection if SD3 reads that."""
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    config = CLIPTextConfig(
        vocab_size=514, hidden_size=width, projection_dim=width, intermediate_size=64, num_hidden_layers=3,
        num_attention_heads=4, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    model = CLIPTextModelWithProjection(config) if projected else CLIPTextModel(config)
    return model.eval()


def image_vae(channels: int = 4) -> torch.nn.Module:
    """An autoencoder of FLUX's and SD3's kind, that halves the sides."""
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, layers_per_block=1, latent_channels=channels, norm_num_groups=4,
        use_quant_conv=False, use_post_quant_conv=False, shift_factor=0.06, scaling_factor=1.5, sample_size=32,
    ).eval()  # fmt: skip


def save_samples(folder: Path, count: int = 2) -> None:
    """A samples.json with noise images."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for i in range(count):
        noise = (np.random.RandomState(i).rand(32, 32, 3) * 255).astype("uint8")
        Image.fromarray(noise).save(folder / f"{i}.png")
        pictures = {"image": f"{i}.png", "last_image": "0.png"}
        entries.append({**pictures, "prompt": SENTENCES[i], "negative_prompt": "blurry"})
    (folder / "samples.json").write_text(json.dumps(entries), encoding="utf-8")
