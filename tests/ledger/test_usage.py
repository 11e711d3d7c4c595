"""What a phase of a run takes is measured."""

from __future__ import annotations

import time
from pathlib import Path

import torch

from llmc.ledger.usage import BETWEEN, Usage, measured

CPU = torch.device("cpu")
MEGABYTE = 2**20


def test_memory_that_was_let_go_again_counts_and_mapped_files_do_not(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(64 * MEGABYTE))
    idle, busy = Usage(), Usage()
    with measured(idle, CPU):
        mapped = torch.from_file(str(tmp_path / "file"), size=64 * MEGABYTE, dtype=torch.uint8)
        assert int(mapped.max()) == 0
    with measured(busy, CPU):
        held = torch.ones(64 * MEGABYTE, dtype=torch.uint8)
        time.sleep(5 * BETWEEN)  # until somebody looked
        del held
    assert 60 * MEGABYTE < busy.host_bytes - idle.host_bytes < 80 * MEGABYTE
    assert busy.device_bytes == 0 and busy.forwards == 0
