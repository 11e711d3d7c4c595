"""Devices that are not the CPU: a pretended one everywhere, and a GPU with `-m gpu`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.device.pretended import COMPILERS, Pretended, compiler
from tests.device.pretended import pretended as load


@pytest.fixture
def pretended() -> Iterator[Pretended]:
    """The pretended device, which has counted nothing yet."""
    if compiler() is None:
        pytest.skip(f"the pretended device is compiled, and none of {', '.join(COMPILERS)} is on PATH")
    device = load()
    with device.found():
        device.forget()
        yield device


@pytest.fixture(params=["npu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    if request.param == "npu":
        loaded: Pretended = request.getfixturevalue("pretended")
        return loaded.device
    return torch.device(request.param)
