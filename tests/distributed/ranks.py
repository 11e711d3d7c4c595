"""Runs a configuration in several processes as torchrun would start them, parted once the libraries are imported.

python -m tests.distributed.ranks JOBS, a JSON list of [folder, ranks, config, overrides]: each job writes its run and
its export into its folder, and what every rank says of each layer.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

SECONDS = 300.0  # for one job


def in_ranks(count: int, work: Callable[[int], None]) -> None:
    """Let so many processes work together, each told its rank; one alone is told of no others."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    alone = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    running = {}
    for rank in range(count):
        if (child := os.fork()) == 0:
            code = 1
            try:
                os.environ |= {**alone, "RANK": str(rank), "LOCAL_RANK": str(rank)} if count > 1 else {}
                work(rank)
                code = 0
            finally:
                if code:
                    traceback.print_exc()
                os._exit(code)
        running[child] = rank
    _wait_for(running)


def _wait_for(running: dict[int, int]) -> None:
    last = time.monotonic() + SECONDS
    failed = ""
    while running and not failed:
        child, status = os.waitpid(-1, os.WNOHANG)
        if child == 0:
            time.sleep(0.01)
            failed = "it takes too long" if time.monotonic() > last else ""
        elif status:
            failed = f"rank {running[child]} ended with {os.waitstatus_to_exitcode(status)}"
        running.pop(child, None)
    for child in running:  # who waits for one that failed would wait for ever
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    if failed:
        sys.exit(failed)


def run_job(folder: Path, config: Path, overrides: Sequence[str], rank: int) -> None:
    """What `llmc run` does, and what this rank says of the layers."""
    from llmc.config.checks import check_config
    from llmc.config.load import load_config
    from llmc.run import run

    own = [f"base.run_dir={folder / 'run'}", f"save.save_path={folder / 'export'}"]
    loaded = load_config(config, [*own, *overrides])
    check_config(loaded)
    results = run(loaded)
    said = results.model_dump(mode="json", include={"layers", "attentions", "rejected", "coverage"})
    (folder / f"rank{rank}.json").write_text(json.dumps(said))


def main() -> None:
    import diffusers
    import torch
    import transformers

    from llmc import run

    assert (diffusers.WanImageToVideoPipeline, transformers.UMT5EncoderModel, run) and torch.get_num_threads() == 1
    for folder, count, config, overrides in json.loads(sys.argv[1]):
        Path(folder).mkdir(parents=True)
        in_ranks(count, lambda rank, to=Path(folder), job=(Path(config), overrides): run_job(to, *job, rank))  # type: ignore[misc]


if __name__ == "__main__":
    main()
