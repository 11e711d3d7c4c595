"""Who may import whom."""

import ast
from collections.abc import Collection, Iterator
from pathlib import Path

import pytest

LLMC = Path(__file__).parents[2] / "llmc"
# import nothing of ours but one another
LEAVES = {
    "atomic", "distributed", "errors", "finite", "interruption", "later", "lock", "log", "memory", "pipe",
    "plugin", "progress", "renames", "section", "shipped",
}  # fmt: skip

EVERYBODYS = {"files"}  # the readers of what others wrote: every room may import them, and they import leaves alone
# package -> the packages of ours that it may import, beside itself, the leaves and everybody's
ALLOWED = {
    "files": set(),
    "numerics": set(),
    "layers": {"numerics"},
    "models": set(),
    "calib": {"models", "layers", "numerics"},
    "policy": {"numerics", "layers", "calib"},
    "algorithms": {"calib", "layers", "numerics"},
    "convert": {"models"},
    "export": {"layers", "numerics", "convert"},
    "eval": {"models"},
    "config": {"algorithms", "numerics", "models", "export", "eval", "policy", "calib"},
    "verify": {"layers", "numerics"},  # not export: what wrote a file does not say that it is right
    # of targets it knows what layers/target.py asks of them
    "engine": {"algorithms", "numerics", "layers", "models", "calib", "policy", "convert", "config"},
    "checks": {"algorithms", "numerics", "layers", "models", "calib", "policy", "export", "config", "engine"},
    "judging": {"numerics", "layers", "models", "calib", "eval", "config", "checks", "engine"},
    "ledger": {
        "algorithms",
        "numerics",
        "layers",
        "models",
        "calib",
        "convert",
        "eval",
        "config",
        "checks",
        "engine",
        "judging",
        "export",
    },
    "api": {
        "calib",
        "checks",
        "compat",
        "config",
        "engine",
        "eval",
        "judging",
        "layers",
        "ledger",
        "models",
        "run",
        "verify",
    },
    "estimate": {
        "algorithms",
        "numerics",
        "layers",
        "models",
        "calib",
        "policy",
        "convert",
        "export",
        "eval",
        "config",
        "checks",
        "engine",
        "judging",
    },
    "compat": {
        "layers",
        "models",
        "calib",
        "policy",
        "convert",
        "export",
        "eval",
        "config",
        "checks",
        "engine",
        "ledger",
    },
}
# file -> modules that it alone of its room may import: verify builds a float network by its class, and calls tensors by
# the one table of its family; neither decides how bytes become values
NARROW = {
    "verify/blueprint.py": {"llmc.models.base", "llmc.models.networks", "llmc.models.parts"},
    "verify/names.py": {"llmc.convert.names"},
}
HEAVY = {"diffusers": "models", "transformers": "models"}  # library -> the one package that may import it


def modules() -> list[Path]:
    return sorted(LLMC.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in the file, by its full name."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports are absolute"
            # `from llmc import log` names a module, `from llmc.log import progress` a thing in one
            yield from (f"llmc.{alias.name}" for alias in node.names) if node.module == "llmc" else [node.module]


def room(path: Path) -> str:
    """The package, or the module right under llmc/, that a file belongs to."""
    return path.relative_to(LLMC).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(LLMC)))
def test_a_module_imports_only_what_its_room_may(path: Path) -> None:
    here = room(path)
    for name in imports(path):
        top, _, rest = name.partition(".")
        if top in HEAVY:
            assert here == HEAVY[top], f"only llmc/{HEAVY[top]} imports {top}"
        if top != "llmc":
            continue
        there = rest.split(".")[0]
        if name in NARROW.get(path.relative_to(LLMC).as_posix(), ()):
            continue
        if here in LEAVES:
            assert there in LEAVES, f"llmc/{here}.py imports nothing of ours but leaves, and it imports {name}"
        if here in ALLOWED and there not in {here, *LEAVES, *EVERYBODYS}:
            assert there in ALLOWED[here], f"llmc/{here} may import {sorted(ALLOWED[here])}, not {name}"


def test_no_algorithm_imports_another() -> None:
    for path in (LLMC / "algorithms").glob("*.py"):
        for name in imports(path):
            if name.startswith("llmc.algorithms."):
                assert name == "llmc.algorithms.base", f"{path.name} imports {name}"


def test_every_package_has_a_rule() -> None:
    packages = {path.name for path in LLMC.iterdir() if (path / "__init__.py").is_file()}
    assert packages == set(ALLOWED)


def test_rooms_are_imported_in_one_direction() -> None:
    """Whatever order the rooms are taken in, one of those that are left imports none of the others."""
    left = dict(ALLOWED)
    while left:
        lowest = [name for name, allowed in left.items() if not (allowed - {name}) & left.keys()]
        assert lowest, f"these import one another: {sorted(left)}"
        for name in lowest:
            del left[name]


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Imports for type checkers alone count, too: what needs another's types knows it."""
    names = {module_name(path): path for path in modules()}
    left = {name: {other for other in imported(path, names) if other != name} for name, path in names.items()}
    while left:
        free = [name for name, others in left.items() if not others & left.keys()]
        assert free, f"in a circle, or above one: {sorted(left)}"
        for name in free:
            del left[name]


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(LLMC.parent).with_suffix("").parts).removesuffix(".__init__")


def imported(path: Path, names: Collection[str]) -> Iterator[str]:
    """The modules of ours that a file imports; of a package, the module that is taken from it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in names)
        elif isinstance(node, ast.ImportFrom) and node.module in names:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in names else str(node.module)
