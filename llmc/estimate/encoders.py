"""What encoders hold while they read a prompt or a picture."""

from __future__ import annotations

from typing import Any

import torch

from llmc.estimate.shapes import Shapes
from llmc.estimate.tracing import traced
from llmc.models.components import empty_component
from llmc.models.one_transformer import text_tokens

PROMPT = 512  # tokens at most, where a tokenizer says nothing else


def reading(shapes: Shapes) -> int:
    """The most bytes of a device that any encoder holds beside its weights."""
    found = 0
    for name in shapes.adapter.encoders:
        module: Any = empty_component(shapes.index, name) if name in shapes.index.components else None
        if module is not None:
            length = text_tokens(shapes.index, name.replace("text_encoder", "tokenizer"), PROMPT)
            found = max(found, _work(module.to(shapes.dtype), None if name.startswith("image") else length, shapes))
    return found


def _work(module: Any, tokens: int | None, shapes: Shapes) -> int:
    """Of one, for so many tokens, or a picture."""
    with traced(shapes.fused) as trace:
        if tokens is None:
            side = module.config.image_size
            module(torch.empty(1, 3, side, side, dtype=module.dtype, device="meta"))
        else:
            most = getattr(module.config, "max_position_embeddings", tokens)
            prompt = torch.empty(1, min(tokens, most), dtype=torch.int64, device="meta")
            module(input_ids=prompt, attention_mask=prompt)
        return trace.peak
