"""Settings that hold for every test: one thread, no network."""

import os
import resource
from collections.abc import Iterator

# before torch is imported: two OpenMP threads that spin-wait slow tiny models down on a shared machine
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import pytest
import torch

from llmc.config.plugins import import_plugins

torch.set_num_threads(1)
# the contracts of plug-ins that live elsewhere: LLMC_PLUGINS=my_package bash scripts/test.sh tests/contracts
import_plugins(filter(None, os.environ.get("LLMC_PLUGINS", "").split(",")))


@pytest.fixture
def little_room() -> Iterator[int]:
    """Files cannot grow beyond so many bytes, as on a disk that fills up."""
    usual, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, most))
    yield 100_000
    resource.setrlimit(resource.RLIMIT_FSIZE, (usual, most))
