"""Tiny encoders of the families that read prompts with a language model, and what feeds them."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import pre_tokenizers

SPECIAL = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>",
    "<|video_pad|>", "<|vision_pad|>",
]  # fmt: skip
# of one message after another, whose content is a text or a list of texts
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.content is string %}{{ message.content }}"
    "{% else %}{% for item in message.content %}{{ item.text }}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def qwen_tokenizer() -> Any:
    """A tokenizer of Qwen's kind that knows bytes, and no longer pieces."""
    from transformers import Qwen2Tokenizer

    pieces = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Qwen2Tokenizer(vocab={piece: number for number, piece in enumerate(pieces)}, merges=[])
    tokenizer.add_special_tokens({"additional_special_tokens": SPECIAL[1:]})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def qwen_vl_processor() -> Any:
    """What feeds Qwen2.5-VL texts and pictures."""
    from transformers import Qwen2VLImageProcessor, Qwen2VLProcessor

    from llmc.models.components import without_videos

    pictures = Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=56 * 56)
    return without_videos(Qwen2VLProcessor)(pictures, qwen_tokenizer(), chat_template=TEMPLATE)


def qwen_vl(width: int, text_only: bool = False) -> torch.nn.Module:
    """Qwen2.5-VL of three blocks and one of vision."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLTextModel

    start, end, image, video = (SPECIAL.index(f"<|{name}|>") for name in VISION)
    config = Qwen2_5_VLConfig(
        text_config={
            **language(width, layers=3),
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [1, 1, 2]},
        },
        vision_config={
            "depth": 1, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": width,
            "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [0],
        },
        vision_start_token_id=start, vision_end_token_id=end, image_token_id=image, video_token_id=video,
        tie_word_embeddings=False,
    )  # fmt: skip
    return (Qwen2_5_VLTextModel(config.text_config) if text_only else Qwen2_5_VLForConditionalGeneration(config)).eval()


VISION = ("vision_start", "vision_end", "image_pad", "video_pad")


def qwen3(width: int, layers: int, head: bool = False) -> torch.nn.Module:
    """Qwen3, with its head where a pipeline asks for that class."""
    from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3Model

    config = Qwen3Config(**language(width, layers), head_dim=8)
    return (Qwen3ForCausalLM(config) if head else Qwen3Model(config)).eval()


def language(width: int, layers: int) -> dict[str, Any]:
    """The sizes of a language model of so many blocks."""
    return {
        "vocab_size": 300, "hidden_size": width, "intermediate_size": 64, "num_hidden_layers": layers,
        "num_attention_heads": 4, "num_key_value_heads": 2, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0,
    }  # fmt: skip
