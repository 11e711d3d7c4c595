"""What groups of linears read while calls run: handed to observers, or to whoever asks."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from llmc.calib.finite import Finite
from llmc.calib.group import Group
from llmc.calib.held_out import APART, Apart
from llmc.calib.observers import OBSERVERS, Awaited, Gram, Observer
from llmc.calib.running import running_call
from llmc.memory import give_back

See = Callable[[str, Tensor], None]  # given a group's name, and what it reads


class Observation:
    """Observers on the inputs of groups, in so many `calls` of all ranks: they see what is read while `watching`, or
    what they are told to `see`. Who gives it `finite` checks that; else it is checked before statistics are given. What
    is kept apart is told from the numbers of all `samples`."""

    def __init__(
        self,
        groups: Sequence[Group],
        needs: frozenset[str],
        calls: int,
        max_rows: int,
        finite: Finite | None = None,
        samples: Collection[int] = (),
    ) -> None:
        self.groups, self.needs, self.apart = groups, needs, Apart.of(samples)
        self.places = {group.name: f"what {group.name} reads" for group in groups}
        self.finite, self.is_checked = finite or Finite(), finite is not None
        self.observers: dict[str, dict[str, Observer]] = {}
        for group in groups:
            awaited = Awaited(calls, max_rows, group.linears[0].in_features, group.device)
            self.observers[group.name] = {need: OBSERVERS[need](awaited) for need in sorted(needs)}

    def watching(self) -> AbstractContextManager[None]:
        """See what the groups read in chosen calls while the body runs."""

        def see(name: str, x: Tensor) -> None:
            if running_call().chosen:
                self.see(name, x)

        return reading(self.groups, see)

    def see(self, name: str, x: Tensor, reference: Tensor | None = None) -> None:
        """What a group reads in one call, and what it would have read in the float model where that is another."""
        both = (x, x if reference is None else reference)
        made = [observer.update(*self._share(need, *both)) for need, observer in self.observers[name].items()]
        self.finite.see(self.places[name], next((small for small in made if small is not None), x))
        if reference is not None:
            self.finite.see(self.places[name], reference)

    def _share(self, need: str, x: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
        """What of a call a statistic is of: all of it, unless some is kept apart for this one."""
        is_apart = need.endswith(APART)
        if not is_apart and need + APART not in self.needs:
            return x, reference
        sample = running_call().sample
        return self.apart.parted(x, sample)[is_apart], self.apart.parted(reference, sample)[is_apart]

    def state(self, group: Group) -> dict[str, dict[str, Any]]:
        """What the observers of a group have seen so far, in plain values and tensors."""
        return {need: observer.state() for need, observer in self.observers[group.name].items()}

    def restore(self, group: Group, state: dict[str, dict[str, Any]]) -> None:
        """Go on where that was."""
        for need, seen in state.items():
            self.observers[group.name][need].restore(seen)

    def attach(self, groups: Sequence[Group] | None = None) -> None:
        """Combine over the ranks, and give each group, or each of some, what was measured of its input."""
        if not self.is_checked:
            self.finite.check()
            self.is_checked = True
        for group in self.groups if groups is None else groups:
            observers = self.observers.pop(group.name)  # so that who is done with a statistic can let go of it
            for observer in observers.values():
                observer.reduce()
            sums = {need: observer for need, observer in observers.items() if isinstance(observer, Gram)}
            found = {need: observer.result() for need, observer in observers.items() if need not in sums}
            group.stats, group.sums = group.stats | found, group.sums | sums
        give_back()


@contextmanager
def reading(groups: Sequence[Group], see: See) -> Iterator[None]:
    """Show what each group reads, by the group's name, while the body runs."""

    def hook(group: Group) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, args: see(group.name, group.original(args[0].detach()))

    with ExitStack() as hooks:
        for group in groups:
            hooks.callback(group.linears[0].register_forward_pre_hook(hook(group)).remove)
        yield
