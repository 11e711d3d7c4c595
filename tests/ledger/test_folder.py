"""The folder of a run is left in order, however the run ends."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
import torch
from torch import distributed

from llmc.compat.load import load_config
from llmc.distributed import joined
from llmc.errors import FolderInUse
from llmc.ledger.folder import working_in
from llmc.lock import LOCK
from llmc.log import log
from tests.end_to_end.small_run import small_config


@pytest.mark.parametrize("ended_by", [RuntimeError("a bug"), KeyboardInterrupt()], ids=repr)
def test_a_run_that_breaks_off_closes_its_log_and_frees_its_folders(ended_by: BaseException, tmp_path: Path) -> None:
    config, before = load_config(small_config(tmp_path)), list(log.handlers)
    with pytest.raises(type(ended_by)) as ended, working_in(config, writes=True):
        assert len(log.handlers) == len(before) + 1
        assert (tmp_path / "run" / LOCK).exists() and (tmp_path / "export" / LOCK).exists()
        raise ended_by
    assert log.handlers == before and [path.name for path in (tmp_path / "run").iterdir()] == ["run.log"]
    assert not (tmp_path / "export").exists()
    told = getattr(ended.value, "__notes__", [])
    assert any("is kept in" in note for note in told) == isinstance(ended_by, KeyboardInterrupt)


def test_a_rank_that_does_not_write_asks_for_no_folder(tmp_path: Path) -> None:
    config = load_config(small_config(tmp_path))
    with working_in(config, writes=True), working_in(config, writes=False) as folder:
        assert (folder.path, folder.writes) == (tmp_path / "run", False)
    with working_in(config, writes=False):
        assert not (tmp_path / "run" / LOCK).exists()


def test_ranks_part_however_the_run_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(FolderInUse), joined(torch.device("cpu")):
        assert distributed.is_initialized()
        raise FolderInUse
    assert not distributed.is_initialized()
