"""What tiny pipelines are made of: tokenizers, text encoders, samples."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from llmc.models.base import Sampling

Tiny = dict[str, tuple[Callable[[Path], None], Sampling]]  # adapter name -> how to save a pipeline of it, how to run it

SENTENCES = [
    "a red circle moving left",
    "a green square moving right",
    "a blue triangle moving up",
    "blurry, low quality",
] * 4


def t5_tokenizer() -> Any:
    """A T5 tokenizer of a few hundred pieces."""
    from transformers import T5Tokenizer

    pieces = Tokenizer(models.Unigram())
    pieces.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    pieces.decoder = decoders.Metaspace(replacement="\u2581", prepend_scheme="always")
    special = ["<pad>", "</s>", "<unk>"]
    trainer = trainers.UnigramTrainer(vocab_size=128, special_tokens=special, unk_token="<unk>", show_progress=False)
    pieces.train_from_iterator(SENTENCES, trainer)
    pieces.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return T5Tokenizer(tokenizer_object=pieces, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def umt5(width: int) -> tuple[Any, torch.nn.Module]:
    """A T5 tokenizer, and an UMT5 encoder of two blocks."""
    from transformers import UMT5Config, UMT5EncoderModel

    config = UMT5Config(vocab_size=512, d_model=width, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    return t5_tokenizer(), UMT5EncoderModel(config).eval()


def save_samples(folder: Path, count: int = 2) -> None:
    """A samples.json with noise images."""
    folder.mkdir(parents=True, exist_ok=True)
    entries = []
    for i in range(count):
        noise = (np.random.RandomState(i).rand(32, 32, 3) * 255).astype("uint8")
        Image.fromarray(noise).save(folder / f"{i}.png")
        entries.append({"image": f"{i}.png", "prompt": SENTENCES[i], "negative_prompt": "blurry"})
    (folder / "samples.json").write_text(json.dumps(entries), encoding="utf-8")
