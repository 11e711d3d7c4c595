"""What the documentation shows exists: configurations are valid, commands have those options, files are there."""

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from llmc.__main__ import command_parser
from llmc.config.bases import on_its_bases
from llmc.config.document import Document, parse
from llmc.config.explain import find_problems
from llmc.config.schema import Config

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(*languages: str) -> list[object]:
    return list(_blocks(*languages))


def _blocks(*languages: str) -> Iterator[object]:
    for page in PAGES:
        for number, (language, text) in enumerate(FENCE.findall(page.read_text(encoding="utf-8"))):
            if language in languages:
                yield pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}")


@pytest.mark.parametrize("text", blocks("python"))
def test_python_that_is_shown_can_be_parsed(text: str) -> None:
    ast.parse(text)


@pytest.mark.parametrize("text", blocks("yaml"))
def test_configurations_that_are_shown_are_valid(text: str) -> None:
    """A fragment may leave whole sections out; what it has must be right."""
    values = parse(text, "block", {})
    if not isinstance(values, dict) or not set(values) & set(Config.model_fields):
        return
    values = on_its_bases(Document(ROOT / "block.yaml", values, {}), lambda document: None).values
    try:
        Config.model_validate(values)
    except ValidationError as error:
        problems = [
            problem for problem in find_problems(error, values, Config) if "the key is missing" not in problem.text
        ]
        assert problems == []


@pytest.mark.parametrize("text", blocks("bash", "sh", "shell"))
def test_commands_that_are_shown_exist(text: str) -> None:
    for line in text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        for word in words:
            if re.fullmatch(r"(configs|scripts|assets|benchmarks)/[\w./-]+\.(yaml|sh|py)", word):
                assert (ROOT / word).is_file(), f"`{line}` names {word}, which is not there"
        if words[:3] == ["python", "-m", "llmc"] or words[:1] == ["llmc"]:
            command_parser().parse_args(words[3:] if words[0] == "python" else words[1:])
