"""The one table of each family, held in both directions: to lists of names that were written down apart from it, and
to its own inverse."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from llmc.convert.names import Known, Names
from llmc.errors import AdapterError
from llmc.files.json_text import read_object
from llmc.models.base import adapters
from llmc.verify.blueprint import Blueprint, draw
from llmc.verify.names import Expected, Linear, divided, expected_tensors
from tests.tiny_pipelines import TINY

LISTED = Path(__file__).parent / "names"  # native name, shape = tensors of diffusers, from the repositories themselves
NAMINGS = {"WanI2V": "lightx2v", "WanVACE": "lightx2v"}  # of a list; else the original's


def blueprint(family: str, folder: Path) -> Blueprint:
    TINY[family][0](folder)
    place = folder / "transformer"
    drawn = draw(read_object((place if place.is_dir() else folder) / "config.json", AdapterError), family)
    assert isinstance(drawn, Blueprint), drawn
    return drawn


def named(drawn: Blueprint, naming: str | None) -> tuple[Expected, ...]:
    found = expected_tensors(drawn, naming)
    assert not isinstance(found, str), found
    return found


def listed(family: str) -> Iterator[tuple[str, tuple[int, ...], list[str]]]:
    for line in (LISTED / f"{family}.txt").read_text(encoding="utf-8").splitlines():
        name, shape, names = line.replace(" = ", " ").split(" ", 2)
        yield name, tuple(int(size) for size in shape.split("x")), names.split(" + ")


@pytest.mark.parametrize("family", [file.stem for file in sorted(LISTED.glob("*.txt"))])
def test_a_table_says_what_the_repository_itself_does(tmp_path: Path, family: str) -> None:
    found = {}
    for each in named(blueprint(family, tmp_path), NAMINGS.get(family, "original")):
        leaf = ".weight" if isinstance(each, Linear) else ""
        sources = [f"{piece.name}{leaf}" + (f"[{piece.start}:]" if piece.start else "") for piece in each.pieces]
        found[f"{each.name}{leaf}"] = each.shape, sources
    wanted = {name: (shape, sources) for name, shape, sources in listed(family)}
    assert found.keys() == wanted.keys()
    for name, (shape, sources) in wanted.items():
        # lists of FLUX.1 and SD3 do not say that the halves of a tensor change places
        assert found[name][0] == shape
        assert found[name][1] == sources or [each.partition("[")[0] for each in found[name][1]] == sources * 2, name


@pytest.mark.parametrize("family", adapters())
def test_a_table_is_a_bijection_of_rows(tmp_path: Path, family: str) -> None:
    drawn = blueprint(family, tmp_path)
    values = {name: torch.randn(shape) for name, shape in drawn.shapes.items()}
    for naming in (None, *(naming for naming, table in drawn.tables.items() if table)):
        files = named(drawn, naming)
        there: dict[str, torch.Tensor] = dict(values)
        if naming is not None:
            table = Names(drawn.tables[naming])
            theirs = table.to_original({name: Known(value) for name, value in values.items()})
            back = table.to_ours(theirs)
            assert back.keys() == values.keys() and all(back[name].make().equal(values[name]) for name in values)
            there = {name: tensor.make() for name, tensor in theirs.items()}
        assert len({each.name for each in files}) == len(files)
        assert {f"{e.name}.weight" if isinstance(e, Linear) else e.name for e in files} == there.keys()
        found = {}
        for each in files:
            leaf = ".weight" if isinstance(each, Linear) else ""
            assert each.shape == tuple(there[f"{each.name}{leaf}"].shape)
            for name, rows in divided(each, there[f"{each.name}{leaf}"]):
                assert f"{name}{leaf}" not in found, f"{name} has two places"
                found[f"{name}{leaf}"] = rows
        assert found.keys() == values.keys() and all(found[name].equal(values[name]) for name in values)
