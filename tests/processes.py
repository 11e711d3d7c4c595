"""Processes forked from a server that has imported llmc: importing torch and diffusers takes longer than most of what
tests ask of them."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from tempfile import TemporaryDirectory

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(["tests.preloaded"])

PATIENCE = 30.0  # seconds, after one of several has failed
Main = Callable[[list[str]], int | None]  # given the words of a command line; returns the exit code


@dataclass(frozen=True)
class Ended:
    """How a process ended, and what it wrote to stdout and stderr."""

    code: int | None
    output: str


def llmc(words: list[str]) -> int:
    """The command line."""
    from llmc.__main__ import main

    return main(words)


def start(
    words: Sequence[object], output: Path, environment: dict[str, str] | None = None, main: Main = llmc
) -> ForkServerProcess:
    """`main` with those words, in the background."""
    arguments = (main, [str(word) for word in words], output, Path.cwd(), environment or {})
    process = SERVER.Process(target=_run, args=arguments)
    process.start()
    return process


def run(words: Sequence[object], ranks: int = 1, main: Main = llmc) -> list[Ended]:
    """`main` with those words in each of so many ranks, which find one another as torchrun lets them."""
    with TemporaryDirectory() as folder:
        group = {} if ranks == 1 else {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
        outputs = [Path(folder) / str(rank) for rank in range(ranks)]
        processes = [
            start(words, output, group and {**group, "RANK": output.name, "LOCAL_RANK": output.name}, main)
            for output in outputs
        ]
        _join(processes)
        return [
            Ended(process.exitcode, output.read_text(encoding="utf-8"))
            for process, output in zip(processes, outputs, strict=True)
        ]


def _join(processes: Sequence[ForkServerProcess]) -> None:
    """Wait for all of them; who waits for one that failed would wait for ever, and is ended."""
    running = {process.sentinel: process for process in processes}
    patience = None
    while running and (ended := wait(list(running), patience)):
        for process in [running.pop(sentinel) for sentinel in ended]:  # type: ignore[call-overload]
            process.join()
            patience = PATIENCE if process.exitcode else patience
    for process in running.values():
        process.kill()
        process.join()


def free_port() -> str:
    """A port of this machine that nobody listens on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return str(taken.getsockname()[1])


def _run(main: Main, words: list[str], output: Path, folder: Path, environment: dict[str, str]) -> None:
    """What the new process does; the server's own folder and environment are those of the first test that needed it."""
    file = os.open(output, os.O_WRONLY | os.O_CREAT)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(file, stream.fileno())
    os.chdir(folder)
    os.environ.update(environment)
    sys.exit(main(words))
