"""Whatever is wrong with a file, it is refused in words, soon, and nothing is left behind."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from types import FrameType

import pytest

from llmc.errors import LlmcError
from tests.files.entries import ENTRIES, copied, files_of, make_good
from tests.files.mutations import corrupt

SECONDS = 2.0  # of the processor, in which all must be said
PATIENCE = 300.0  # seconds of the clock, for whoever waits for a FIFO
EACH = 5  # corrupted files for each entry


class Endless(BaseException):
    """Raised where a reader is after all that time."""


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("good")
    make_good(root)
    return root


@contextmanager
def soon() -> Iterator[None]:
    """Nothing in here takes long."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise Endless

    before = {number: signal.signal(number, ring) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        yield
    finally:
        for timer, number in ((signal.ITIMER_PROF, signal.SIGPROF), (signal.ITIMER_REAL, signal.SIGALRM)):
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


def there(root: Path) -> dict[Path, tuple[int, int]]:
    """What lies in a folder; a log that a run of the same process has open is left out."""
    found = (path for path in root.rglob("*") if path.name != "run.log")
    return {
        path: (path.lstat().st_size, path.lstat().st_ino) for path in found if path.is_symlink() or not path.is_dir()
    }


def outcome(name: str, root: Path) -> int:
    """What an entry says of its files; anything but an answer is an error of ours."""
    before = there(root)
    try:
        with soon():
            code = ENTRIES[name].run(root)
    except LlmcError as error:
        assert len(str(error)) < 20_000
        code = 2
    changed = {path for path, about in there(root).items() if before.get(path) != about}
    allowed = [] if code == 2 else [root / folder for folder in ENTRIES[name].writes]
    assert all(any(path.is_relative_to(folder) for folder in allowed) for path in changed), changed
    return code if isinstance(code, int) else 0


def check(name: str, seed: int, good: Path, root: Path) -> None:
    copied(good, root)
    file = Random(seed).choice(files_of(ENTRIES[name], root))
    print(f"seed {seed}: {corrupt(file, seed)} in {file.relative_to(root)}")  # shown where it fails
    assert outcome(name, root) in (0, 1, 2, 3)  # 3: verify lacks what it would need


@pytest.mark.filterwarnings("ignore")  # those of libraries that find something odd
@pytest.mark.parametrize("name", ENTRIES)
def test_a_corrupted_file_is_refused_or_read(name: str, good: Path, tmp_path: Path) -> None:
    copied(good, tmp_path / "whole")
    assert outcome(name, tmp_path / "whole") == (3 if name == "verify against a model" else 0)
    for seed in range(EACH):
        check(name, seed, good, tmp_path / str(seed))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ENTRIES)
def test_many_more_corrupted_files_are_refused_or_read(name: str, good: Path, tmp_path: Path) -> None:
    for seed in range(1000, 1000 + 4 * EACH):
        check(name, seed, good, tmp_path / str(seed))
