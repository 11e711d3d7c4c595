"""The image encoder of Wan: transformers' CLIP vision model, and the visual half of an XLM-RoBERTa CLIP."""

from __future__ import annotations

from torch import Tensor, float32, zeros

from llmc.convert.rows import Constant, Omitted, Reshaped, Table
from llmc.models.encoders import CLIP_VISION_ORIGINAL
from llmc.renames import Fused

EMBEDDING = 1024  # width of what an XLM-RoBERTa ViT-H/14 CLIP compares images and texts in


def _first(tensor: Tensor) -> Tensor:
    return tensor.reshape(tensor.shape[-2:]) if tensor.dim() == 3 else tensor


def _batched(tensor: Tensor) -> Tensor:
    return tensor[None]


def _class_there(tensor: Tensor) -> Tensor:
    return tensor.reshape(1, 1, -1)


def _class_back(tensor: Tensor) -> Tensor:
    return tensor.reshape(-1)


def _transposed(tensor: Tensor) -> Tensor:
    return tensor.t()


def _vision(prefix: str) -> Table:
    special: Table = (
        Reshaped(f"{prefix}embeddings.class_embedding", "visual.cls_embedding", _class_there, _class_back),
        Reshaped(f"{prefix}embeddings.position_embedding.weight", "visual.pos_embedding", _batched, _first),
        Fused(
            tuple(f"{prefix}encoder.layers.{{}}.self_attn.{name}_proj" for name in "qkv"),
            "visual.transformer.{}.attn.to_qkv",
        ),
        Reshaped("visual_projection.weight", "visual.head", _transposed, _transposed),
    )
    targets = {row.target for row in special if not isinstance(row, tuple)}
    return (
        *special,
        *((prefix + ours, theirs) for ours, theirs in CLIP_VISION_ORIGINAL if theirs not in targets),
        ("logit_scale", "log_scale"),
        # LightX2V's loader asks for both, and its image encoder reads neither
        Constant("visual.head", "visual.post_norm.weight", lambda norm: zeros(norm[0], EMBEDDING)),
        Constant("log_scale", "visual.post_norm.weight", lambda _: zeros(()), float32),
        Omitted("textual", "the text half of the model, which no image encoder reads"),
    )


CLIP = _vision("")  # transformers 5 writes these names,
CLIP_PREFIXED = _vision("vision_model.")  # and earlier releases, from which the published files are, these
