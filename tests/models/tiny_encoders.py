"""One tiny encoder of each class that pipelines have, random weights, and a call as a pipeline makes it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from llmc.models.encoders import encoder_parts, section_of
from llmc.models.parts import Part

TOKENS, REAL = 12, 7  # of a padded prompt

Tiny = tuple[str, torch.nn.Module, dict[str, Any]]  # the component's name, the encoder, what it is called with


def prompt(vocabulary: int, masked: bool = True) -> dict[str, Any]:
    """Two prompts of different lengths, padded; the last real token is the largest, as CLIP's end of text."""
    ids = torch.randint(3, vocabulary - 1, (2, TOKENS), generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(2, TOKENS, dtype=torch.long)
    for row, length in enumerate((REAL, REAL - 3)):
        ids[row, length - 1] = vocabulary - 1
        ids[row, length:] = 0
        mask[row, :length] = 1
    return {"input_ids": ids, "attention_mask": mask} if masked else {"input_ids": ids}


def t5(kind: str, **settings: Any) -> Tiny:
    import transformers

    config = getattr(transformers, f"{kind}Config")(
        vocab_size=64, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, **settings
    )
    return "text_encoder", getattr(transformers, f"{kind}EncoderModel")(config), prompt(64)


def clip_text(class_name: str, **asked: Any) -> Tiny:
    import transformers

    config = transformers.CLIPTextConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=16, projection_dim=16, eos_token_id=63, bos_token_id=1, pad_token_id=0,
    )  # fmt: skip
    return "text_encoder_2", getattr(transformers, class_name)(config), prompt(64, masked=False) | asked


def clip_vision() -> Tiny:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    config = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4, image_size=16, patch_size=8,
        projection_dim=16,
    )  # fmt: skip
    pixels = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    return "image_encoder", CLIPVisionModel(config), {"pixel_values": pixels, "output_hidden_states": True}


def llama() -> Tiny:
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    return "text_encoder", LlamaModel(config), prompt(64) | {"output_hidden_states": True}


ENCODERS: dict[str, Callable[[], Tiny]] = {
    "UMT5EncoderModel": lambda: t5("UMT5"),
    "T5EncoderModel": lambda: t5("T5", feed_forward_proj="gated-gelu"),
    "T5EncoderModel, no gate": lambda: t5("T5", feed_forward_proj="relu"),
    "MT5EncoderModel": lambda: t5("MT5"),
    "CLIPTextModel": lambda: clip_text("CLIPTextModel"),
    "CLIPTextModelWithProjection": lambda: clip_text("CLIPTextModelWithProjection", output_hidden_states=True),
    "CLIPVisionModel": clip_vision,
    "LlamaModel": llama,
}


def tiny_encoder(name: str) -> tuple[Part, dict[str, Any]]:
    """The encoder as a part, its norms and biases random too, and what it is called with."""
    torch.manual_seed(0)
    component, module, call = ENCODERS[name]()
    for parameter in module.parameters():
        if parameter.dim() == 1:
            parameter.data += torch.randn_like(parameter) * 0.2
    pipeline = SimpleNamespace(**{component: module.eval()})
    (part,) = encoder_parts(pipeline, [component], [section_of(component)])
    return part, call
