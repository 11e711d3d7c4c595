"""Leave a pipeline once a recording has all that it wants: the rest of the last call, and decoding, are for nobody."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial

from torch import Tensor, nn

from llmc.calib.group import Group
from llmc.calib.observation import reading
from llmc.models.parts import Part


class _Enough(BaseException):
    """Ends a pipeline of which nothing more is wanted; private, so that no error can be taken for it."""


@contextmanager
def left_when_seen(
    denoisers: Sequence[Part], calls: Mapping[str, int], groups: Mapping[str, Sequence[Group]]
) -> Iterator[None]:
    """Leave the body once each denoising network has begun as many of its `calls` as are wanted (of those that are not
    named, none), and its `groups` were read in the last one, or that one ended: not every call reads them all. Encoders
    have run before all of them. Where fewer calls come, the body runs to its end."""
    wanted = {part.name: calls.get(part.name, 0) for part in denoisers}

    def begun(part: Part, module: nn.Module, args: object) -> None:
        wanted[part.name] -= 1
        if max(wanted.values()) > 0:
            return
        unread = {group.name for group in groups.get(part.name, ())}
        if not unread:
            raise _Enough

        def see(name: str, x: Tensor) -> None:
            unread.discard(name)
            if not unread:
                raise _Enough

        hooks.enter_context(reading(groups[part.name], see))
        hooks.callback(module.register_forward_hook(leave).remove)

    def leave(*_: object) -> None:
        raise _Enough

    with ExitStack() as hooks:
        for part in denoisers:
            hooks.callback(part.module.register_forward_pre_hook(partial(begun, part)).remove)
        with suppress(_Enough):
            yield
