"""Every YAML that ships is valid, says in its first line what it does, and the embedded ones would run."""

import re
from pathlib import Path

import pytest

from llmc.checks.configuration import config_problems
from llmc.compat.load import load_config, load_document
from llmc.config.document import read_document
from llmc.config.plan import plan

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "configs" / "quantization").rglob("*.yaml"))
PARTS = sorted({*(ROOT / "configs").rglob("*.yaml")} - {*CONFIGS})  # recipes, models, targets
NAMES = [str(path.relative_to(ROOT)) for path in CONFIGS]


@pytest.mark.parametrize("path", CONFIGS, ids=NAMES)
def test_every_shipped_config_loads(path: Path) -> None:
    config = load_config(path)
    assert config.recipe()[0].model_dump()["name"] in plan(config)


@pytest.mark.parametrize("path", [*CONFIGS, *PARTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_the_first_line_says_in_one_sentence_what_it_does(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ") and first.endswith(".")


@pytest.mark.parametrize("path", [path for path in CONFIGS if "tiny" in path.parent.name], ids=lambda path: path.stem)
def test_the_embedded_configs_would_run_as_they_are(path: Path) -> None:
    assert config_problems(load_config(path)) == []


@pytest.mark.parametrize(
    "path", [path for path in CONFIGS if "tiny" not in path.parent.name], ids=lambda path: path.stem
)
def test_the_others_lack_nothing_but_the_model(path: Path) -> None:
    assert {problem.keys[0] for problem in config_problems(load_config(path))} <= {"model"}


def test_every_part_is_used_and_no_two_say_the_same() -> None:
    used = {base.resolve() for path in CONFIGS for base in load_document(path).bases}
    assert used == set(PARTS)
    said = [repr(read_document(path).values) for path in PARTS]
    assert len(set(said)) == len(said)


def test_what_ships_is_written_once() -> None:
    files = [*CONFIGS, *PARTS]
    assert sum(len(path.read_text(encoding="utf-8").splitlines()) for path in files) < 2500


def test_every_recipe_is_in_the_verified_table_of_its_family() -> None:
    """Tables name recipes by their places below the folder of all; a star stands for all that there are."""
    folder = ROOT / "configs" / "quantization" / "video_gen"
    named: set[Path] = set()
    for page in sorted((ROOT / "docs" / "models").glob("*.md")):
        verified = page.read_text(encoding="utf-8").partition("## Verified")[2]
        for pattern in re.findall(r"`([\w*]+/\w+)`", verified):
            found = {path for path in folder.glob(f"{pattern}.yaml") if "tiny" not in path.parent.name}
            assert found, f"{page.name} names {pattern}, and there is no such recipe"
            named |= found
    assert {path for path in CONFIGS if "tiny" not in path.parent.name} == named
