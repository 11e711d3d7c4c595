"""The pretended device itself: it refuses what a real one refuses, and counts."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llmc.engine.device import choose_device
from tests.device.pretended import Pretended, built

MIXED: dict[str, Callable[[torch.Tensor, torch.Tensor], object]] = {
    "added": lambda x, host: x + host,
    "multiplied": lambda x, host: x @ host,
    "joined": lambda x, host: torch.cat([x, host]),
    "stacked": lambda x, host: torch.stack([x, host]),
    "added in place": lambda x, host: x.add_(host),
    "joined with a number of the host": lambda x, host: torch.stack([x[0, 0], host[0, 0]]),
}


@pytest.mark.parametrize("way", MIXED)
def test_operands_on_two_devices_are_refused(pretended: Pretended, way: str) -> None:
    x = torch.ones(4, 4, device=pretended.device)
    with pytest.raises(RuntimeError, match="same device"):
        MIXED[way](x, torch.ones(4, 4))


def test_a_number_of_the_host_is_taken_by_pointwise_operators_alone(pretended: Pretended) -> None:
    x = torch.ones(4, device=pretended.device)
    assert (x * torch.tensor(2.0)).sum().item() == 8
    assert x[torch.tensor([0, 1])].shape == (2,)  # indices may lie on the host


def test_numpy_and_a_generator_of_the_host_are_refused(pretended: Pretended) -> None:
    with pytest.raises(TypeError, match="can't convert npu:0"):
        torch.ones(2, device=pretended.device).numpy()
    with pytest.raises(RuntimeError, match="device type for generator"):
        torch.randn(2, generator=torch.Generator(), device=pretended.device)
    own = torch.Generator(pretended.device).manual_seed(0)
    assert torch.randn(2, generator=own, device=pretended.device).device == pretended.device


def test_bytes_are_counted_while_tensors_live(pretended: Pretended) -> None:
    before = pretended.held
    x = torch.zeros(1000, device=pretended.device)
    view, copy = x[:10], x + 1
    assert pretended.held - before == 8000
    del copy
    assert (pretended.held - before, pretended.peak - before) == (4000, 8000)
    del x
    assert pretended.held - before == 4000  # the view keeps the whole
    del view
    assert pretended.held == before


def test_operators_and_what_goes_between_host_and_device_are_counted(pretended: Pretended) -> None:
    x = torch.arange(6.0).to(pretended.device)
    total = float((x @ x).cpu())
    masked, largest = x[x > 2], x.max().item()
    assert (total, largest, len(masked)) == (55, 5, 3)
    counts = pretended.counts
    assert {name: counts[name] for name in ("dot", "to_device", "to_host", "item", "nonzero")} == {
        "dot": 1, "to_device": 1, "to_host": 1, "item": 1, "nonzero": 1,
    }  # fmt: skip
    assert pretended.waits == 3
    pretended.forget()
    assert pretended.counts.total() == pretended.waits == 0


def test_only_who_asks_for_it_finds_it(pretended: Pretended) -> None:
    assert choose_device("auto").type == "npu"
    pretended.present = False
    assert choose_device("auto").type != "npu"


@pytest.mark.slow
def test_a_build_that_is_killed_leaves_nothing_behind_for_the_next_one(pretended: Pretended, tmp_path: Path) -> None:
    first = multiprocessing.get_context("spawn").Process(target=built, args=(tmp_path,))
    first.start()
    while not (tmp_path / "pretended.lock").exists():
        first.join(0.01)
    first.kill()
    first.join()
    assert first.exitcode == -signal.SIGKILL and not list(tmp_path.glob("*.so"))
    assert built(tmp_path).stat().st_size > 0
