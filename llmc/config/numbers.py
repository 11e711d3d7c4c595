"""Numbers and texts in the schema, and how large they can be: a switch is no number, and neither is infinity."""

import re
from math import isfinite
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictInt

MAX_SIDE = 16_384  # pixels
MAX_FRAMES = 10_000
MAX_VOLUME = 2**34  # pixels of a whole video
MAX_STEPS = 1000  # what the schedules of all families are cut from
MAX_SEED = 2**63 - 1  # of torch's generators
MAX_TEXT = 10_000  # characters of a prompt
MAX_GLOB = 500
MAX_LISTED = 1000  # prompts, seeds, globs
MAX_RULES = 500
MAX_BLOCK = 1024  # side of a square that shares a scale: layers are padded to whole ones
MAX_GROUP = 16_384  # values that share a scale; no layer of these models has as many inputs


def _is_a_number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"it is {value}; a number is needed")
    if isinstance(value, float) and not isfinite(value):
        raise ValueError(f"it is {value}; a finite number is needed")
    return value


SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,9})?) ?([kMGT]i?)?B", re.IGNORECASE)


def _bytes_meant(value: Any) -> Any:
    """`8GB` is 8 * 1000**3 bytes, `8GiB` 8 * 1024**3."""
    if not isinstance(value, str):
        return value
    if (found := SIZE.fullmatch(value.strip())) is None:
        raise ValueError("it is no size; write a number and its unit, such as 8GB, 500MB or 16GiB")
    number, unit = found[1], (found[2] or "").lower()
    base = 1024 if unit.endswith("i") else 1000
    return int(float(number) * base ** (1 + "kmgt".index(unit[0]))) if unit else int(float(number))


ByteCount = Annotated[StrictInt, BeforeValidator(_bytes_meant, json_schema_input_type=int | str), Field(ge=0)]
Seed = Annotated[StrictInt, Field(ge=0, le=MAX_SEED)]
Side = Annotated[StrictInt, Field(ge=1, le=MAX_SIDE)]
Frames = Annotated[StrictInt, Field(ge=1, le=MAX_FRAMES)]
Steps = Annotated[StrictInt, Field(ge=1, le=MAX_STEPS)]
Prompt = Annotated[str, Field(max_length=MAX_TEXT)]
Glob = Annotated[str, Field(min_length=1, max_length=MAX_GLOB)]
Number = Annotated[float, BeforeValidator(_is_a_number), Field(allow_inf_nan=False)]
