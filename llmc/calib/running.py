"""Which call of a network runs while what it reads is observed.

Whoever runs the network says it; observers choose rows by the number of the call, and what is found to be wrong is told
with it. It is a variable of the context, as the denoising step is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from llmc.calib.store import Call

_call: ContextVar[Call] = ContextVar("call")


def running_call() -> Call:
    """The call that runs: its header, without tensors."""
    return _call.get()


def begin_call(call: Call) -> None:
    """Say that this call runs from now on."""
    _call.set(call.header())


@contextmanager
def at_call(call: Call) -> Iterator[None]:
    """Run the body in that call, and leave things as they were before."""
    token = _call.set(call.header())
    try:
        yield
    finally:
        _call.reset(token)
