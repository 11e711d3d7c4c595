"""What is measured of inputs, against the plain formula."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llmc.calib.observers import OBSERVERS, PANEL, TOKENS, TURNED, WIDE, Awaited, Gram, Observer, Rows
from llmc.calib.running import at_call
from llmc.calib.store import Call
from llmc.layers.steps import at_step


def observer_of(name: str, calls: int, max_rows: int, width: int) -> Observer:
    return OBSERVERS[name](Awaited(calls, max_rows, width, torch.device("cpu")))


def call(number: int) -> Call:
    return Call(0, 0, None, "", number=number)


@pytest.mark.parametrize(("tokens", "width"), [(7, PANEL + 40), (TURNED, WIDE + 8)])
def test_moments_are_sums_over_all_tokens_of_all_calls(tokens: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    calls = [torch.randn(2, tokens, width, generator=generator) for _ in range(3)]
    floats = [each + 0.1 * torch.randn(each.shape, generator=generator) for each in calls]
    q, x = (torch.cat(tensors).flatten(0, 1).double() for tensors in (calls, floats))
    for name, wanted, limit in (("gram", q.T @ q, 1e-5), ("gram64", q.T @ q, 1e-13),
                                ("cross", x.T @ q, 1e-5), ("cross64", x.T @ q, 1e-13)):  # fmt: skip
        observer = observer_of(name, 3, 8, width)
        for each, reference in zip(calls, floats, strict=True):
            observer.update(each, reference)
        found = observer.result()
        assert (found.double() - wanted).norm() < limit * wanted.norm(), name
        assert name.startswith("cross") or torch.equal(found, found.T)


@pytest.mark.parametrize("name", ["gram", "gram64"])
def test_a_moment_is_symmetric_to_the_bit_whatever_a_product_gives_below_the_diagonal(name: str) -> None:
    x = torch.randn(1, 9, PANEL + 40, generator=torch.Generator().manual_seed(0))
    plain, other = observer_of(name, 1, 8, PANEL + 40), observer_of(name, 1, 8, PANEL + 40)
    plain.update(x, x)
    other.update(x, x)
    assert isinstance(other, Gram)
    other.value.copy_(other.value.triu() + torch.full_like(other.value, torch.nan).tril(-1))
    assert torch.equal(other.result(), plain.result()) and torch.equal(other.result(), other.result().T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OBSERVERS)
def test_no_observer_changes_what_it_sees_or_keeps_hold_of_it(name: str, dtype: torch.dtype) -> None:
    x = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(0)).to(dtype)
    before, observer = x.clone(), observer_of(name, 2, 8, 24)
    with at_step(0), at_call(call(0)):
        observer.update(x, x)
        assert torch.equal(x, before)
        found = observer.result().clone()
        x.zero_()
        assert torch.equal(observer.result(), found)


def test_the_mean_magnitude_is_over_all_tokens_of_all_calls() -> None:
    calls = [torch.randn(1, tokens, 24, generator=torch.Generator().manual_seed(tokens)) for tokens in (1, TOKENS + 5)]
    observer = observer_of("mean", 2, 8, 24)
    for each in calls:
        observer.update(each, each)
    wanted = torch.cat(calls, 1).double().abs().mean((0, 1))
    assert (observer.result() - wanted).abs().max() < 1e-6 * wanted.max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_largest_magnitude_is_of_both_signs_and_shows_what_is_not_finite(dtype: torch.dtype) -> None:
    inf, nan = float("inf"), float("nan")
    calls = [torch.tensor([[[1.5, -3.0, -0.0, 1e-7, -2.0, 1.0]]]), torch.tensor([[[-2.5, 2.0, 0.0, -1e-7, -inf, nan]]])]
    observer = observer_of("absmax", 2, 8, 6)
    for each in calls:
        observer.update(each.to(dtype), each.to(dtype))
    *finite, infinite, unknown = observer.result().tolist()
    assert finite == [2.5, 3.0, 0.0, float(torch.tensor(1e-7).to(dtype))]
    assert infinite == inf and unknown != unknown
    every_other = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)).to(dtype)[..., ::2]
    observer = observer_of("absmax", 1, 8, 4)
    observer.update(every_other, every_other)
    assert torch.equal(observer.result(), every_other.abs().amax((0, 1)).float())


RANKS = """
import torch
from torch import distributed
from llmc.calib.finite import Finite
from llmc.calib.observers import OBSERVERS, Awaited
from llmc.calib.running import at_call
from llmc.calib.store import Call
from llmc.errors import CalibrationError
from llmc.layers.steps import at_step
from tests.distributed.ranks import in_ranks

calls = [Call(sample, step, None, "", number=3 * sample + i) for sample in range(2) for i, step in enumerate((0, 1, 3))]
inputs = [torch.randn(1, 50, 16, generator=torch.Generator().manual_seed(i)) * (i + 1) for i in range(len(calls))]


def observed(some):
    found = {name: make(Awaited(len(calls), 40, 16, torch.device("cpu"))) for name, make in OBSERVERS.items()}
    for number in some:
        with at_step(calls[number].step), at_call(calls[number]):
            for observer in found.values():
                observer.update(inputs[number], inputs[number] + 1)
    return found


def work(rank):
    alone = {name: observer.result() for name, observer in observed(range(len(calls))).items()}
    distributed.init_process_group("gloo")
    own = ([3, 4, 5], [0, 1, 2], [])[rank]  # the last rank sees nothing
    for name, observer in observed(own).items():
        observer.reduce()
        one, all = alone[name], observer.result()
        exact = name not in ("gram", "cross", "gram64", "cross64", "mean")
        assert one.shape == all.shape and one.dtype == all.dtype, name
        assert one.equal(all) if exact else (one - all).norm() <= 1e-6 * one.norm(), name
    assert alone["row_steps"].flatten().tolist() == 2 * ([0.0] * 6 + [1.0] * 6 + [3.0] * 6)
    finite = Finite()
    for number in own:
        with at_call(calls[number]):
            finite.see("it", torch.tensor([1.0, float("nan") if number in (2, 5) else 0.0]))
    try:
        finite.check()
    except CalibrationError as error:
        assert "it holds NaN or infinity, at first in call 2 (sample 0, step 3)" in str(error), error
    else:
        raise AssertionError("this rank was not told")
    distributed.barrier()  # who leaves first would tear the connection of the others
    distributed.destroy_process_group()


in_ranks(3, work)
"""


def test_ranks_agree_on_what_one_would_measure_whoever_saw_it(tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


def test_sampled_rows_do_not_keep_the_tensors_that_they_were_taken_from() -> None:
    observer = observer_of("rows", 4, 8, 16)
    for number in range(4):
        x = torch.randn(1, 100, 16)
        with at_call(call(number)):
            observer.update(x, x)
    assert isinstance(observer, Rows)
    assert all(rows.untyped_storage().nbytes() == rows.nbytes == 2 * 16 * 4 for _, rows in observer.kept)
