"""What each of three ranks does, for `tests.processes`: each observes calls of its own, and all come to the same."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import distributed

from llmc.calib.finite import Finite
from llmc.calib.held_out import APART
from llmc.calib.observers import OBSERVERS, Awaited, Observer
from llmc.calib.running import at_call
from llmc.calib.store import Call
from llmc.errors import CalibrationError
from llmc.layers.steps import at_step

STEPS = (0, 1, 3)
CALLS = [Call(i // 3, STEPS[i % 3], None, "", number=i) for i in range(6)]
OWN = ([3, 4, 5], [0, 1, 2], [])  # the last rank sees nothing
SUMS = ("gram", "cross", "gram64", "cross64", "mean")  # whose last bits depend on the order


def observed(numbers: Iterable[int]) -> dict[str, Observer]:
    """Every observer, after those of the calls."""
    found = {name: make(Awaited(len(CALLS), 40, 16, torch.device("cpu"))) for name, make in OBSERVERS.items()}
    for number in numbers:
        x = torch.randn(1, 50, 16, generator=torch.Generator().manual_seed(number)) * (number + 1)
        with at_step(CALLS[number].step), at_call(CALLS[number]):
            for observer in found.values():
                observer.update(x, x + 1)
    return found


def assert_observers_agree(own: Iterable[int]) -> None:
    """After ranks have told one another, each knows what one would that saw every call."""
    alone = {name: observer.result() for name, observer in observed(range(len(CALLS))).items()}
    for name, observer in observed(own).items():
        observer.reduce()
        one, together = alone[name], observer.result()
        assert one.shape == together.shape and one.dtype == together.dtype, name
        is_sum = name.removesuffix(APART) in SUMS
        assert (one - together).norm() <= 1e-6 * one.norm() if is_sum else one.equal(together), name
    assert alone["row_steps"].flatten().tolist() == 2 * ([0.0] * 6 + [1.0] * 6 + [3.0] * 6)


def assert_nan_is_told_to_all(own: Iterable[int]) -> None:
    """That of the first call that has one."""
    finite = Finite()
    for number in own:
        with at_call(CALLS[number]):
            finite.see("it", torch.tensor([1.0, float("nan") if number in (2, 5) else 0.0]))
    try:
        finite.check()
    except CalibrationError as error:
        assert "it holds NaN or infinity, at first in call 2 (sample 0, step 3)" in str(error), error
    else:
        raise AssertionError("this rank was not told")


def main(words: list[str]) -> None:
    distributed.init_process_group("gloo")
    own = OWN[distributed.get_rank()]
    assert_observers_agree(own)
    assert_nan_is_told_to_all(own)
    distributed.barrier()  # who leaves first would tear the connection of the others
    distributed.destroy_process_group()
