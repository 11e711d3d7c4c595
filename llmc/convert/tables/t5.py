"""UMT5, Wan's text encoder: transformers' names, and those of Wan's own release."""

from __future__ import annotations

from llmc.convert.names import Table, Tied

LAYERS: Table = (
    ("encoder.block.{}.layer.0.layer_norm", "blocks.{}.norm1"),
    ("encoder.block.{}.layer.0.SelfAttention.q", "blocks.{}.attn.q"),
    ("encoder.block.{}.layer.0.SelfAttention.k", "blocks.{}.attn.k"),
    ("encoder.block.{}.layer.0.SelfAttention.v", "blocks.{}.attn.v"),
    ("encoder.block.{}.layer.0.SelfAttention.o", "blocks.{}.attn.o"),
    ("encoder.block.{}.layer.0.SelfAttention.relative_attention_bias", "blocks.{}.pos_embedding.embedding"),
    ("encoder.block.{}.layer.1.layer_norm", "blocks.{}.norm2"),
    ("encoder.block.{}.layer.1.DenseReluDense.wi_0", "blocks.{}.ffn.gate.0"),
    ("encoder.block.{}.layer.1.DenseReluDense.wi_1", "blocks.{}.ffn.fc1"),
    ("encoder.block.{}.layer.1.DenseReluDense.wo", "blocks.{}.ffn.fc2"),
    ("encoder.final_layer_norm", "norm"),
)
# one embedding with two names: transformers writes the first, a state dict has both, some files hold the second
T5: Table = (("shared", "token_embedding"), *LAYERS)
T5_TIED: Table = (Tied(("shared", "encoder.embed_tokens"), "token_embedding"), *LAYERS)
T5_SECOND: Table = (("encoder.embed_tokens", "token_embedding"), *LAYERS)
