"""What a run left for a later one is sealed: its text, and the types and shapes beside it, must be what was written.

Values of tensors are not looked at: there may be many gigabytes, and no value can break what reads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from llmc.files.json_text import NotJson, parse_json


def seal_of(text: str, tensors: Mapping[str, Tensor]) -> str:
    """That of a text which goes with tensors."""
    places = [[name, str(tensor.dtype), list(tensor.shape)] for name, tensor in sorted(tensors.items())]
    return hashlib.sha256(json.dumps([text, places]).encode()).hexdigest()


def parse_sealed(text: str, seal: str | None, tensors: Mapping[str, Tensor]) -> Any:
    """What a text with tensors says, if both are what was written; a NotJson says what they are not."""
    if seal != seal_of(text, tensors):
        raise NotJson("it is not what was written")
    return parse_json(text.encode())
