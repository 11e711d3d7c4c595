"""The image encoder of Wan: transformers' CLIP vision model, and the visual half of an XLM-RoBERTa CLIP."""

from __future__ import annotations

from torch import Tensor, zeros

from llmc.convert.names import Constant, Omitted, Reshaped, Table
from llmc.models.base import Fused

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
    return tensor.T


def _vision(prefix: str) -> Table:
    layer = f"{prefix}encoder.layers.{{}}"
    return (
        Reshaped(f"{prefix}embeddings.class_embedding", "visual.cls_embedding", _class_there, _class_back),
        (f"{prefix}embeddings.patch_embedding", "visual.patch_embedding"),
        Reshaped(f"{prefix}embeddings.position_embedding.weight", "visual.pos_embedding", _batched, _first),
        (f"{prefix}pre_layrnorm", "visual.pre_norm"),
        (f"{layer}.layer_norm1", "visual.transformer.{}.norm1"),
        Fused(tuple(f"{layer}.self_attn.{name}_proj" for name in "qkv"), "visual.transformer.{}.attn.to_qkv"),
        (f"{layer}.self_attn.out_proj", "visual.transformer.{}.attn.proj"),
        (f"{layer}.layer_norm2", "visual.transformer.{}.norm2"),
        (f"{layer}.mlp.fc1", "visual.transformer.{}.mlp.0"),
        (f"{layer}.mlp.fc2", "visual.transformer.{}.mlp.2"),
        (f"{prefix}post_layernorm", "visual.post_norm"),
        Reshaped("visual_projection.weight", "visual.head", _transposed, _transposed),
        ("logit_scale", "log_scale"),
        # LightX2V's loader asks for both, and its image encoder reads neither
        Constant("visual.head", "visual.post_norm.weight", lambda norm: zeros(norm[0], EMBEDDING)),
        Constant("log_scale", "visual.post_norm.weight", lambda _: zeros(())),
        Omitted("textual", "the text half of the model, which no image encoder reads"),
    )


CLIP = _vision("")  # transformers 5 writes these names,
CLIP_PREFIXED = _vision("vision_model.")  # and earlier releases, from which the published files are, these
