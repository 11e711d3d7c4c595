"""What is measured of inputs, against the plain formula."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llmc.calib.observers import OBSERVERS, PANEL, TOKENS, TURNED, WIDE, Gram, Rows
from llmc.layers.steps import at_step


@pytest.mark.parametrize(("tokens", "width"), [(7, PANEL + 40), (TURNED, WIDE + 8)])
def test_moments_are_sums_over_all_tokens_of_all_calls(tokens: int, width: int) -> None:
    generator = torch.Generator().manual_seed(0)
    calls = [torch.randn(2, tokens, width, generator=generator) for _ in range(3)]
    floats = [call + 0.1 * torch.randn(call.shape, generator=generator) for call in calls]
    q, x = (torch.cat(tensors).flatten(0, 1).double() for tensors in (calls, floats))
    for name, wanted, limit in (("gram", q.T @ q, 1e-5), ("gram64", q.T @ q, 1e-13),
                                ("cross", x.T @ q, 1e-5), ("cross64", x.T @ q, 1e-13)):  # fmt: skip
        observer = OBSERVERS[name](3, 8)
        for call, reference in zip(calls, floats, strict=True):
            observer.update(call, reference)
        found = observer.result()
        assert (found.double() - wanted).norm() < limit * wanted.norm(), name
        assert name.startswith("cross") or torch.equal(found, found.T)


@pytest.mark.parametrize("name", ["gram", "gram64"])
def test_a_moment_is_symmetric_to_the_bit_whatever_a_product_gives_below_the_diagonal(name: str) -> None:
    x = torch.randn(1, 9, PANEL + 40, generator=torch.Generator().manual_seed(0))
    plain, other = OBSERVERS[name](1, 8), OBSERVERS[name](1, 8)
    plain.update(x, x)
    other.update(x, x)
    assert isinstance(other, Gram) and other.value is not None
    other.value.copy_(other.value.triu() + torch.full_like(other.value, torch.nan).tril(-1))
    assert torch.equal(other.result(), plain.result()) and torch.equal(other.result(), other.result().T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", OBSERVERS)
def test_no_observer_changes_what_it_sees_or_keeps_hold_of_it(name: str, dtype: torch.dtype) -> None:
    x = torch.randn(2, 9, 24, generator=torch.Generator().manual_seed(0)).to(dtype)
    before, observer = x.clone(), OBSERVERS[name](2, 8)
    with at_step(0):
        observer.update(x, x)
        assert torch.equal(x, before)
        found = observer.result().clone()
        x.zero_()
        assert torch.equal(observer.result(), found)


def test_the_mean_magnitude_is_over_all_tokens_of_all_calls() -> None:
    calls = [torch.randn(1, tokens, 24, generator=torch.Generator().manual_seed(tokens)) for tokens in (1, TOKENS + 5)]
    observer = OBSERVERS["mean"](2, 8)
    for call in calls:
        observer.update(call, call)
    wanted = torch.cat(calls, 1).double().abs().mean((0, 1))
    assert (observer.result() - wanted).abs().max() < 1e-6 * wanted.max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_largest_magnitude_is_of_both_signs_and_shows_what_is_not_finite(dtype: torch.dtype) -> None:
    inf, nan = float("inf"), float("nan")
    calls = [torch.tensor([[[1.5, -3.0, -0.0, 1e-7, -2.0, 1.0]]]), torch.tensor([[[-2.5, 2.0, 0.0, -1e-7, -inf, nan]]])]
    observer = OBSERVERS["absmax"](2, 8)
    for call in calls:
        observer.update(call.to(dtype), call.to(dtype))
    *finite, infinite, unknown = observer.result().tolist()
    assert finite == [2.5, 3.0, 0.0, float(torch.tensor(1e-7).to(dtype))]
    assert infinite == inf and unknown != unknown
    every_other = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)).to(dtype)[..., ::2]
    observer = OBSERVERS["absmax"](1, 8)
    observer.update(every_other, every_other)
    assert torch.equal(observer.result(), every_other.abs().amax((0, 1)).float())


RANKS = """
import math, torch
from torch import distributed
from llmc.calib.observers import OBSERVERS
from llmc.layers.steps import at_step

distributed.init_process_group("gloo")
rank = distributed.get_rank()
ranges, steps = (OBSERVERS[name](4, 64) for name in ("step_range", "row_steps"))
for step, reach in (((0, 1.0), (1, 5.0)), ((1, 7.0), (3, 2.0)))[rank]:
    with at_step(step):
        x = torch.tensor([[-reach, 0.0], [0.0, reach + rank]])
        ranges.update(x, x)
        steps.update(x, x)
for observer in (ranges, steps):
    observer.reduce()
inf = math.inf
wanted = [[[-1, 0], [0, 1]], [[-7, 0], [0, 8]], [[inf, inf], [-inf, -inf]], [[-2, 0], [0, 3]]]
assert ranges.result().tolist() == wanted, ranges.result()
assert steps.result().flatten().tolist() == [0, 0, 1, 1, 1, 1, 3, 3], steps.result()
distributed.barrier()  # who leaves first would tear the connection of the other
distributed.destroy_process_group()
"""


def test_ranks_agree_on_the_range_of_each_step_whoever_saw_it(tmp_path: Path) -> None:
    script = tmp_path / "ranks.py"
    script.write_text(RANKS)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(launch, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]


def test_sampled_rows_do_not_keep_the_tensors_that_they_were_taken_from() -> None:
    observer = OBSERVERS["rows"](4, 8)
    for _ in range(4):
        x = torch.randn(1, 100, 16)
        observer.update(x, x)
    assert isinstance(observer, Rows)
    assert all(part.untyped_storage().nbytes() == part.nbytes == 2 * 16 * 4 for part in observer.kept)
