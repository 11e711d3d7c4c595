"""UMT5, Wan's text encoder: one embedding that files of transformers have under one of two names, or under both."""

from __future__ import annotations

from llmc.convert.rows import Table, Tied
from llmc.models.encoders import UMT5_ORIGINAL

EMBEDDING = "token_embedding"
_LAYERS = tuple(row for row in UMT5_ORIGINAL if row[1] != EMBEDDING)

T5: Table = (("shared", EMBEDDING), *_LAYERS)  # what transformers writes
T5_TIED: Table = (Tied(("shared", "encoder.embed_tokens"), EMBEDDING), *_LAYERS)  # what a state dict has
T5_SECOND: Table = (("encoder.embed_tokens", EMBEDDING), *_LAYERS)
