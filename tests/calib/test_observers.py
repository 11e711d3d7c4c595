"""What is measured of inputs, against the plain formula."""

from __future__ import annotations

import pytest
import torch

from llmc.calib.observers import OBSERVERS, PANEL, PANELS, TOKENS, TURNED, WIDE, Awaited, Gram, Observer, Rows
from llmc.calib.running import at_call
from llmc.calib.store import Call
from llmc.layers.steps import at_step
from tests import processes
from tests.calib import observing_ranks


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
    for panel in other.panels:
        panel.copy_(panel.triu() + torch.full_like(panel, torch.nan).tril(-1))
    assert torch.equal(other.result(), plain.result()) and torch.equal(other.result(), other.result().T)


def test_a_moment_takes_half_of_its_room_until_it_is_asked_for_and_none_after_the_last_time() -> None:
    x = torch.randn(1, 9, PANELS * PANEL)
    gram = observer_of("gram", 1, 8, PANELS * PANEL)
    gram.update(x, x)
    assert isinstance(gram, Gram)
    whole = gram.result()
    assert sum(panel.untyped_storage().nbytes() for panel in gram.panels) < 0.55 * whole.nbytes
    assert torch.equal(gram.result(keep=False), whole)
    assert sum(panel.untyped_storage().nbytes() for panel in gram.panels) == 0


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


def test_ranks_agree_on_what_one_would_measure_whoever_saw_it() -> None:
    ended = processes.run([], ranks=3, main=observing_ranks.main)
    assert [rank.code for rank in ended] == [0] * 3, ended


def test_sampled_rows_do_not_keep_the_tensors_that_they_were_taken_from() -> None:
    observer = observer_of("rows", 4, 8, 16)
    for number in range(4):
        x = torch.randn(1, 100, 16)
        with at_call(call(number)):
            observer.update(x, x)
    assert isinstance(observer, Rows)
    assert all(rows.untyped_storage().nbytes() == rows.nbytes == 2 * 16 * 4 for _, rows in observer.kept)
