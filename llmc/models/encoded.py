"""What encoders made of texts and pictures, kept for a run: each is encoded once, however often it is asked for.

A pipeline asks its own methods for it. They are wrapped while it runs, so that its calls, and all that it does before
and after, stay its own; what they are given tells one question from another.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

METHODS = ("encode_prompt", "encode_image")  # as pipelines of diffusers call them


@dataclass(frozen=True)
class Encoded:
    """Answers of the encoders of one pipeline, which do not change while it is used."""

    answers: dict[Hashable, Any] = field(default_factory=dict)

    @contextmanager
    def used_by(self, pipeline: Any) -> Iterator[None]:
        """Answer for the encoders of the pipeline while the body runs."""
        with ExitStack() as stack:
            for method in METHODS:
                if callable(encode := getattr(pipeline, method, None)):
                    stack.enter_context(_replaced(pipeline, method, self._remembering(method, encode)))
            yield

    def _remembering(self, method: str, encode: Callable[..., Any]) -> Callable[..., Any]:
        def encoded(*args: Any, **kwargs: Any) -> Any:
            try:
                question = method, _key(args), _key(kwargs)
            except TypeError:  # a tensor: then there is no text to encode
                return encode(*args, **kwargs)
            if question not in self.answers:
                self.answers[question] = encode(*args, **kwargs)
            return self.answers[question]

        return encoded


@contextmanager
def _replaced(pipeline: Any, method: str, by: Callable[..., Any]) -> Iterator[None]:
    own = vars(pipeline).get(method)  # that of its class, unless somebody gave it another one
    setattr(pipeline, method, by)
    try:
        yield
    finally:
        delattr(pipeline, method) if own is None else setattr(pipeline, method, own)


def _key(value: Any) -> Hashable:
    """What tells a value from others; a TypeError for what nothing does."""
    if value is None or isinstance(value, bool | int | float | str | torch.device | torch.dtype):
        return value
    if isinstance(value, list | tuple):
        return tuple(map(_key, value))
    if isinstance(value, dict):
        return tuple((name, _key(value[name])) for name in sorted(value))
    if hasattr(value, "tobytes") and hasattr(value, "mode"):  # a picture
        return value.mode, value.size, hashlib.sha256(value.tobytes()).digest()
    raise TypeError(type(value).__name__)
