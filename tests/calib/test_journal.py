"""Finished blocks come back from disk, and what is damaged or cannot be kept is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import nn

from llmc.calib.block import BlockStep, LayerError
from llmc.calib.coverage import Coverage
from llmc.calib.group import Group
from llmc.calib.journal import Journal
from llmc.errors import CalibrationError
from llmc.layers.linear import QuantLinear
from llmc.layers.transforms import Scale
from llmc.numerics.formats.base import Format
from llmc.numerics.spec import LayerSpec, TensorSpec
from llmc.plugin import discover

FORMATS = discover("llmc.numerics.formats", Format)
W8 = LayerSpec(weight=TensorSpec(format="int8", granularity="per_channel"))


def blocks(rounded: bool = False) -> list[BlockStep]:
    """Two blocks of one linear."""
    torch.manual_seed(0)
    made = []
    for number in range(2):
        name = f"blocks.{number}"
        layer = QuantLinear(nn.Linear(32, 16), W8)
        group = Group(f"part.{name}.linear", (f"{name}.linear",), (layer,), (), stats={"range": torch.randn(2, 32)})
        block = BlockStep(name, nn.ModuleList([layer]), [group])
        if rounded:
            layer.round()
            block.errors = {f"{name}.linear": LayerError(0.5, 0.25, 0.125)}
            block.rejected["SmoothQuant"] += 1
        made.append(block)
    return made


@pytest.fixture
def kept(tmp_path: Path) -> tuple[Journal, list[BlockStep]]:
    journal, finished = Journal(tmp_path / "journal"), blocks(rounded=True)
    for block in finished:
        journal.keep("part", block)
    return journal, finished


def codes(block: BlockStep) -> torch.Tensor:
    (layer,) = block.linears.values()
    assert layer.state.rounded is not None
    return layer.state.rounded.codes


def test_finished_blocks_come_back(kept: tuple[Journal, list[BlockStep]]) -> None:
    journal, finished = kept
    fresh = blocks()
    assert journal.restore("part", fresh) == 2 and journal.restore("other", blocks()) == 0
    for block, before in zip(fresh, finished, strict=True):
        assert torch.equal(codes(block), codes(before))
        assert (block.errors, block.rejected, block.on_disk) == (before.errors, before.rejected, True)
        assert torch.equal(block.groups[0].stats["range"], before.groups[0].stats["range"])


@pytest.mark.parametrize("form", FORMATS.values(), ids=FORMATS)
def test_codes_of_every_format_come_back(form: type[Format], tmp_path: Path) -> None:
    spec = LayerSpec(weight=TensorSpec(format=form(), **{} if form.group_size else {"granularity": "per_channel"}))
    layer = QuantLinear(nn.Linear(512, 16), spec)
    block = BlockStep("blocks.0", layer, [Group("part.blocks.0.linear", ("linear",), (layer,), ())])
    layer.round()
    before = layer.state.rounded
    Journal(tmp_path).keep("part", block)
    after = layer.state.rounded
    assert before is not None and after is not None and after is not before
    assert after.codes.dtype == before.codes.dtype and torch.equal(after.dequantize(), before.dequantize())


def test_codes_of_a_block_on_disk_stay_where_they_are(kept: tuple[Journal, list[BlockStep]]) -> None:
    _, finished = kept
    place = codes(finished[0]).data_ptr()
    finished[0].put_away()
    assert codes(finished[0]).data_ptr() == place


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize(
    "damage", [half, Path.unlink, lambda path: path.write_bytes(b"")], ids=["half", "gone", "empty"]
)
def test_blocks_from_a_damaged_one_on_are_calibrated_again(
    kept: tuple[Journal, list[BlockStep]], damage: Callable[[Path], object], caplog: pytest.LogCaptureFixture
) -> None:
    journal, _ = kept
    path = journal.folder / "part.blocks.0.safetensors"
    damage(path)
    fresh = blocks()
    assert journal.restore("part", fresh) == 0
    assert all(layer.state.rounded is None for block in fresh for layer in block.linears.values())
    assert ("calibrated again" in caplog.text) == path.exists()


def test_a_state_that_has_no_name_is_told_and_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    @dataclass(frozen=True)
    class Own(Scale):
        pass

    block = blocks()[0]
    (layer,) = block.linears.values()
    layer.state = replace(layer.state, transforms=(Own(torch.ones(32)),))
    Journal(tmp_path / "journal").keep("part", block)
    assert "blocks.0 of part cannot be kept" in caplog.text and not (tmp_path / "journal").exists()
    assert isinstance(layer.state.transforms[0], Own)


def test_a_rank_that_does_not_write_leaves_no_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", writes=False)
    journal.keep("part", blocks(rounded=True)[0])
    journal.keep_coverage(Coverage())
    assert not journal.folder.exists()


def test_coverage_comes_back(tmp_path: Path) -> None:
    journal, coverage = Journal(tmp_path / "journal"), Coverage()
    assert journal.coverage() == coverage
    coverage.note("part", 0, 3)
    journal.keep_coverage(coverage)
    assert journal.coverage() == coverage


def test_a_full_disk_is_told_with_the_file(little_room: int, tmp_path: Path) -> None:
    layer = QuantLinear(nn.Linear(little_room // 4, 16), W8)
    layer.round()
    block = BlockStep("blocks.0", layer, [Group("part.blocks.0.linear", ("linear",), (layer,), ())])
    with pytest.raises(CalibrationError, match=r"cannot be written: .*make room there"):
        Journal(tmp_path / "journal").keep("part", block)
    assert list(tmp_path.rglob("*.safetensors")) == []
