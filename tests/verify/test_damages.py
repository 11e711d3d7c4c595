"""What would load without a word is seen with a run, whatever the manifest says; without one it is not proven."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmc.verify.run import verify
from tests.slices import by_default
from tests.verify.conftest import Exported
from tests.verify.damages import DAMAGES, EXPORTS, damage, export

SOME = [name for name, (key, _) in DAMAGES.items() if key in ("lightx2v", "comfyui flux")][::3]
Make = Callable[[str], Exported]


@pytest.fixture(scope="session")
def undamaged(tmp_path_factory: pytest.TempPathFactory) -> Make:
    made: dict[str, Exported] = {}

    def make(key: str) -> Exported:
        if key not in made:
            made[key] = export(key, tmp_path_factory.mktemp("undamaged"))
        return made[key]

    return make


@pytest.mark.parametrize("key", by_default(["lightx2v", "comfyui flux"], EXPORTS))
def test_a_copy_of_norms_and_biases_that_differ_passes(undamaged: Make, tmp_path: Path, key: str) -> None:
    made = undamaged(key)
    report = verify(damage(made, tmp_path / "copy", lambda it: None), made.run)
    assert report.passed, [(v.rule, v.status, v.problems, v.note) for v in report.verdicts if v.status != "pass"]


@pytest.mark.parametrize("name", by_default(SOME, DAMAGES))
def test_a_damage_is_caught_with_the_run_and_not_proven_without(undamaged: Make, tmp_path: Path, name: str) -> None:
    key, change = DAMAGES[name]
    made = undamaged(key)
    copy = damage(made, tmp_path / "copy", change)
    assert verify(copy, made.run).exit_code == 1
    assert verify(copy).exit_code in (1, 3)
