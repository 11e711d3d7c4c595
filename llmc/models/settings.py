"""Whether the configuration of a network can be meant: counts, sizes and numbers that such a network may have."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from llmc.errors import AdapterError
from llmc.files.numbers import LARGEST, MOST_BLOCKS, is_whole, source_of
from llmc.files.words import shown

BLOCKS = re.compile(r"num_\w*(layers|blocks)")
NEEDED = ("num_layers", "num_hidden_layers")  # without one there is nothing to run
SIZE = re.compile(r"num_\w+|dim|d_model|d_ff|d_kv|\w+_(dim|size|channels|heads|layers|len)")
LENGTH = re.compile(r"\w*seq_len\w*|max_position_embeddings")
LONGEST = 2**22  # tokens: tables of that many positions are computed, not read
MOST_ITEMS = 4096  # of one list


def check_settings(config: Mapping[str, Any]) -> None:
    """Refuse what would be built without end, or be no network: libraries take any number."""
    if problems := list(_problems(config)):
        raise AdapterError(
            f"{source_of(config)} says {'; '.join(problems[:3])}: take the config.json that belongs to these weights"
        )


def _problems(config: Mapping[str, Any]) -> Iterator[str]:
    for key, value in config.items():
        said = f"{shown(key)}: {shown(repr(value))}"
        if value is not None and BLOCKS.fullmatch(key):
            least = int(key in NEEDED)
            if not is_whole(value, least, MOST_BLOCKS):
                yield f"{said}, which must be a whole number from {least} to {MOST_BLOCKS}"
        elif isinstance(value, str | bool) and SIZE.fullmatch(key):
            yield f"{said}, which must be a number"
        elif type(value) is int:
            most = LONGEST if LENGTH.fullmatch(key) else LARGEST
            if not -most <= value <= most:
                yield f"{said}, which is more than {most}"
        elif isinstance(value, float) and value != value:
            yield f"{said}, which is no number"
        elif isinstance(value, list) and len(value) > MOST_ITEMS:
            yield f"a list of {len(value)} for {shown(key)}; there are at most {MOST_ITEMS}"
