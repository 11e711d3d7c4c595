"""Memory that does not suffice is told, of the host for real."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from pathlib import Path

import numpy
import pytest
import torch

from llmc.errors import OutOfMemory
from llmc.memory import available_memory, needed_for

LIMIT = 10**9


@pytest.fixture(autouse=True)
def little_memory() -> Iterator[None]:
    """This process cannot have more than so many bytes beyond what it has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    usual, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + LIMIT, most))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (usual, most))


def of_torch() -> object:
    return torch.empty(4 * LIMIT, dtype=torch.uint8)


def of_numpy() -> object:
    return numpy.empty(4 * LIMIT, dtype=numpy.uint8)


def of_python() -> object:
    return bytearray(4 * LIMIT)


@pytest.mark.parametrize(
    ("ask", "amount"), [(of_torch, "for 4 GB more"), (of_numpy, "for 4.0"), (of_python, "not said")]
)
def test_a_shortage_names_the_work_the_amount_and_what_takes_less(ask: object, amount: str) -> None:
    assert callable(ask)
    with (
        pytest.raises(OutOfMemory) as told,
        needed_for("the whole command", "nothing"),
        needed_for("making the float videos", "fewer eval.num_frames"),
    ):
        ask()
    said = str(told.value)
    assert said.startswith("making the float videos: the memory of the host does not suffice")
    assert amount in said and said.endswith("What takes less: fewer eval.num_frames.")


@pytest.mark.parametrize(
    ("text", "whose"),
    [
        ("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 139.81 GiB", "CUDA"),
        ("NPU out of memory. Tried to allocate 20.00 GiB (NPU 0; 60.97 GiB total capacity)", "NPU"),
    ],
)
def test_a_shortage_on_a_device_is_told_as_its_own(text: str, whose: str) -> None:
    told = rf"of the device \({whose}\) does not suffice for 21.5 GB more"
    with pytest.raises(OutOfMemory, match=told), needed_for("making the float videos", "fewer eval.num_frames"):
        raise torch.OutOfMemoryError(text)


@pytest.mark.parametrize("error", [RuntimeError("shapes cannot be multiplied"), OSError(28, "No space left on device")])
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as found, needed_for("making the float videos", "fewer eval.num_frames"):
        raise error
    assert found.value is error


def test_a_container_has_less_memory_than_its_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "memory.current").write_text("3000\n")
    monkeypatch.setattr("llmc.memory.CONTAINER", tmp_path)
    for limit, most in {"5000": 2000, "1000": 0}.items():
        (tmp_path / "memory.max").write_text(f"{limit}\n")
        assert available_memory() == most
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory() > 5000
