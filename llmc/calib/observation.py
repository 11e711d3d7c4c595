"""What groups of linears read while calls run: handed to observers, or to whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from llmc.calib.block import Group
from llmc.calib.observers import OBSERVERS


class Observation:
    """Observers on the inputs of groups: use it as a context while calls run, or `update` it with what they read."""

    def __init__(self, groups: Sequence[Group], needs: frozenset[str], calls: int, max_rows: int) -> None:
        self.groups = groups
        self.observers = {
            group.name: {need: OBSERVERS[need](calls, max_rows) for need in sorted(needs)} for group in groups
        }

    def __enter__(self) -> Observation:
        def see(name: str, x: Tensor) -> None:
            self.update({name: x}, {name: x})

        self._hooks = _hook_inputs(self.groups, see)
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def update(self, inputs: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> None:
        """What groups read in one call, and what they would have read in the float model."""
        for name, x in inputs.items():
            for observer in self.observers[name].values():
                observer.update(x, reference[name])

    def attach(self) -> None:
        """Combine over the ranks, and give each group what was measured of its input."""
        for group in self.groups:
            observers = self.observers.pop(group.name)  # so that who is done with a statistic can let go of it
            for observer in observers.values():
                observer.reduce()
            found = {need: observer.result() for need, observer in observers.items()}
            group.stats = group.stats | found


@contextmanager
def inputs_of(groups: Sequence[Group]) -> Iterator[dict[str, Tensor]]:
    """What each group reads while the body runs."""
    inputs: dict[str, Tensor] = {}
    hooks = _hook_inputs(groups, inputs.__setitem__)
    try:
        yield inputs
    finally:
        for hook in hooks:
            hook.remove()


def _hook_inputs(groups: Sequence[Group], see: Callable[[str, Tensor], None]) -> list[RemovableHandle]:
    def hook(group: Group) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, args: see(group.name, group.original(args[0].detach()))

    return [group.linears[0].register_forward_pre_hook(hook(group)) for group in groups]
