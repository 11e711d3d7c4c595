"""Processes that run llmc, forked from a server that has imported it: importing torch and diffusers takes longer than
most of what tests ask of them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.preloaded"])


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it wrote to stdout and stderr."""

    code: int | None
    output: str


def start(arguments: Sequence[str], output: Path, environment: dict[str, str] | None = None) -> ForkServerProcess:
    """`llmc` with those arguments, in the background."""
    process = SERVER.Process(target=_llmc, args=(list(arguments), output, os.getcwd(), environment or {}))
    process.start()
    return process


def run(arguments: Sequence[str], ranks: int = 1) -> list[Ended]:
    """`llmc` with those arguments in each of so many ranks, as torchrun would start them."""
    with TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        group = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
        free.close()
        outputs = [Path(folder) / str(rank) for rank in range(ranks)]
        processes = [
            start(arguments, output, {} if ranks == 1 else {**group, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank, output in enumerate(outputs)
        ]
        for process in processes:
            process.join()
        return [
            Ended(process.exitcode, output.read_text(encoding="utf-8"))
            for process, output in zip(processes, outputs, strict=True)
        ]


def _llmc(arguments: list[str], output: Path, folder: str, environment: dict[str, str]) -> None:
    """What the new process does; the server's own folder and environment are those of the first test that needed it."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file, stream.fileno())
    os.chdir(folder)
    os.environ.update(environment)

    from llmc.__main__ import main

    sys.exit(main(arguments))
