"""Tensor names from one naming scheme to another, by a table of module names; exact in both directions.

A row names a module or a bare parameter; whatever follows that (`.weight`, `.weight_scale`, ...) is kept. `{}` in a row
stands for one block number.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from typing import TypeAlias

from llmc.errors import ExportError
from llmc.renames import Renames

Tree: TypeAlias = "dict[str, Tree | str]"  # one level per dotted component; a leaf is the new name
SHOWN = 8  # names in one message


class Renamer:
    """Both directions of one table: forward reads it from left to right."""

    def __init__(self, table: Renames):
        self._left = _tree(table)
        self._right = _tree(tuple((right, left) for left, right in table))

    def forward(self, name: str) -> str:
        """The name on the right of the table."""
        return self.forward_all([name])[name]

    def backward(self, name: str) -> str:
        """The name on the left of the table."""
        return self.backward_all([name])[name]

    def forward_all(self, names: Iterable[str]) -> dict[str, str]:
        """Old name -> new name, for names on the left of the table; all unknown names are refused at once."""
        return _rename_all(names, self._left, self._right)

    def backward_all(self, names: Iterable[str]) -> dict[str, str]:
        """Old name -> new name, for names on the right of the table; all unknown names are refused at once."""
        return _rename_all(names, self._right, self._left)

    def is_left(self, name: str) -> bool:
        """Whether `forward` knows the name."""
        return _rename(name, self._left) is not None

    def is_right(self, name: str) -> bool:
        """Whether `backward` knows the name."""
        return _rename(name, self._right) is not None


def _tree(table: Renames) -> Tree:
    """The table as a tree. No row may be the beginning of another, else a name would have two translations."""
    root: Tree = {}
    for old, new in table:
        if old.count("{}") != new.count("{}"):
            raise ValueError(f"{old!r} and {new!r} do not hold the same number of {{}}")
        *components, last = old.split(".")
        node = root
        for component in components:
            below = node.setdefault(component, {})
            if isinstance(below, str):
                raise ValueError(f"{old!r} begins with another row of the table")
            node = below
        if last in node:
            raise ValueError(f"{old!r} stands twice in the table, or another row begins with it")
        node[last] = new
    return root


def _rename(name: str, tree: Tree) -> str | None:
    """The new name, or None if no row fits."""
    return _found(name.split("."), tree, ())


def _found(components: list[str], node: Tree | str, numbers: tuple[str, ...]) -> str | None:
    """The new name below a node of the tree; a row for one block goes before the row for all of them."""
    if isinstance(node, str):
        return ".".join([node.format(*numbers), *components])
    if not components:
        return None
    first, *rest = components
    found = _found(rest, node[first], numbers) if first in node else None
    if found is None and "{}" in node and first.isdecimal():
        found = _found(rest, node["{}"], (*numbers, first))
    return found


def _rename_all(names: Iterable[str], tree: Tree, other: Tree) -> dict[str, str]:
    renamed = {name: _rename(name, tree) for name in names}
    unknown = [name for name, new in renamed.items() if new is None]
    if not unknown:
        return {old: new for old, new in renamed.items() if new is not None}
    if all(_rename(name, other) is not None for name in renamed):
        raise ExportError(
            f"the {len(renamed)} tensors already have the names asked for, such as {unknown[0]!r}; only names of the "
            "other scheme can be renamed; use them as they are, or ask for the opposite direction"
        )
    known = _rows(tree)
    lines = [f"  {name}: {_closest(name, known)}" for name in unknown[:SHOWN]]
    if len(unknown) > SHOWN:
        lines.append(f"  and {len(unknown) - SHOWN} more")
    raise ExportError(
        "\n".join([f"{len(unknown)} of {len(renamed)} tensor names are not in the table of renames:", *lines])
        + "\nonly names of the table can be translated; check the direction and the model type, or add the missing rows"
    )


def _rows(tree: Tree, prefix: str = "") -> list[str]:
    return [
        row
        for component, below in tree.items()
        for row in ([prefix + component] if isinstance(below, str) else _rows(below, f"{prefix}{component}."))
    ]


def _closest(name: str, known: list[str]) -> str:
    module = re.sub(r"\.\d+\.", ".{}.", name, count=1).rpartition(".")[0]
    close = difflib.get_close_matches(module or name, known, n=2, cutoff=0.5)
    return f"closest known are {' and '.join(close)}" if close else "nothing known is near it"
