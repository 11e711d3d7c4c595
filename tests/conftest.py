"""Settings that hold for every test: one thread, no network."""

import gc
import os
import resource
from collections.abc import Iterator

# before torch is imported: two OpenMP threads that spin-wait slow tiny models down on a shared machine. It is not
# imported here, where the process that only hands the tests out would import it too
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import pytest

from llmc.config.plugins import import_plugins

# the contracts of plug-ins that live elsewhere: LLMC_PLUGINS=my_package bash scripts/test.sh tests/contracts
import_plugins(filter(None, os.environ.get("LLMC_PLUGINS", "").split(",")))


def pytest_collection_finish() -> None:
    """What is imported stays: to look through it for garbage again and again took a twelfth of the suite's time."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)  # more is imported later


@pytest.fixture
def little_room() -> Iterator[int]:
    """Files cannot grow beyond so many bytes, as on a disk that fills up."""
    usual, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most))
    yield 100_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (usual, most))
