"""How the code reads: short functions, one word for one thing, docstrings and comprehensions that say one thing."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

LLMC = Path(__file__).parents[2] / "llmc"
MODULES = sorted(LLMC.rglob("*.py"))
SHORT = {"api", "checks", "engine", "judging", "ledger", "run"}  # rooms in which no function is long
LINES, PARAMETERS = 40, 6
WORDS_OF_ONE_PLACE = {"video_gen": "section.py"}  # a word of configurations -> the one module that writes it out
Function = ast.FunctionDef | ast.AsyncFunctionDef
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
# rooms in which each comprehension does one thing
SIMPLE = SHORT | {"algorithms", "files", "layers", "numerics", "plugin", "policy"}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def nodes(*kinds: type[ast.AST], rooms: set[str] | None = None) -> Iterator[tuple[str, ast.AST]]:
    """Every node of these kinds, and where it stands."""
    for path in MODULES:
        room = path.relative_to(LLMC).parts[0].removesuffix(".py")
        if rooms is None or room in rooms:
            for node in ast.walk(tree_of(path)):
                if isinstance(node, kinds):
                    yield f"{path.relative_to(LLMC)}:{getattr(node, 'lineno', 1)}", node


def test_no_function_is_long() -> None:
    found = [(where, node.name) for where, node in functions() if node.end_lineno - node.lineno >= LINES]  # type: ignore[operator]
    assert found == []


def test_no_function_takes_many_things() -> None:
    found = [(where, node.name) for where, node in functions() if len(parameters(node)) > PARAMETERS]
    assert found == []


def functions() -> Iterator[tuple[str, Function]]:
    for where, node in nodes(ast.FunctionDef, ast.AsyncFunctionDef, rooms=SHORT):
        assert isinstance(node, Function)
        yield where, node


def parameters(function: Function) -> list[str]:
    """What a caller gives."""
    arguments = function.args
    names = [each.arg for each in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls")]


@pytest.mark.parametrize("word", WORDS_OF_ONE_PLACE)
def test_a_word_of_configurations_stands_in_one_place(word: str) -> None:
    found = [where for where, node in nodes(ast.Constant) if isinstance(node, ast.Constant) and node.value == word]
    assert [where.partition(":")[0] for where in found] == [WORDS_OF_ONE_PLACE[word]], found


def test_a_docstring_stands_alone() -> None:
    found = []
    for where, node in nodes(ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef):
        said = ast.get_docstring(node)  # type: ignore[arg-type]
        if said is not None and said.startswith("The same"):
            found.append(where)
    assert found == []


def test_a_comprehension_does_one_thing() -> None:
    found = []
    for where, node in nodes(ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp, rooms=SIMPLE):
        assert isinstance(node, Comprehension)
        if len(node.generators) > 1:
            found.append(where)
    assert found == []
