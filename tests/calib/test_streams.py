"""What blocks give in each call comes back to the bit, from memory and from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from llmc.calib.store import map_tree
from llmc.calib.streams import InFile, InMemory, Room, Streams
from llmc.calib.tensor_files import Layout
from llmc.errors import CalibrationError


class Block:
    """Stands for the class of a block."""


def values(number: int) -> dict[str, Tensor]:
    """Tensors as blocks give them: views that lie anywhere, of any type."""
    wide = torch.arange(number, number + 120, dtype=torch.float32).reshape(2, 5, 12)
    return {
        "a part of the tokens": wide[:, 2:],
        "turned": wide.transpose(1, 2),
        "a part of the channels": wide.chunk(3, dim=-1)[1],
        "repeated": torch.tensor([[float(number)], [2.5]]).expand(2, 7),
        "bf16": wide.to(torch.bfloat16)[1:],
        "whole numbers": torch.tensor(number),
        "switches": wide[0] > 7,
        "nothing": torch.empty(0, 4),
        "no number": torch.tensor([torch.nan, torch.inf, -0.0]),
    }


def assert_alike(found: Tensor, wanted: Tensor) -> None:
    assert Layout.of(found) == Layout.of(wanted)
    assert torch.equal(found.flatten().view(torch.uint8), wanted.flatten().view(torch.uint8))


@pytest.mark.parametrize("memory", [0, 400, 3000, float("inf")])
def test_what_was_put_comes_back_as_it_lay(memory: float, tmp_path: Path) -> None:
    wanted = [values(number) for number in range(4)]
    with Room(memory, tmp_path) as room:
        streams = Streams(4, room)
        for turn in range(3):
            for number in range(4):
                found = streams.get(number)
                assert found.keys() == ({Block, 7} if turn else set())
                for tensor, other in zip(found.get(Block, {}).values(), wanted[number].values(), strict=bool(turn)):
                    assert_alike(tensor, other)
                assert not turn or found[7][0] == ("text", turn - 1)
                streams.put(number, {Block: wanted[number], 7: (("text", turn), torch.ones(3), None)})
    assert list(tmp_path.iterdir()) == []


def test_memory_is_filled_first_and_given_back(tmp_path: Path) -> None:
    with Room(100, tmp_path) as room:
        kept = [room.keep(torch.zeros(10)) for _ in range(4)]
        assert [type(one) for one in kept] == [InMemory, InMemory, InFile, InFile] and room.left == 20
        (folder,) = tmp_path.iterdir()
        assert [one.get().sum() for one in kept] == [0] * 4
        assert sorted(file.stat().st_size for file in folder.iterdir()) == [40, 40]
        kept[0].drop()
        kept[2].drop()
        assert isinstance(room.keep(torch.zeros(10)), InMemory)
        assert kept[3].get().numel() == 10  # the thread has done by then what it was asked before
        assert len(list(folder.iterdir())) == 1


def test_one_stream_goes_on_with_what_another_kept(tmp_path: Path) -> None:
    for memory in (0, 10**6):
        with Room(memory, tmp_path) as room:
            own, others = Streams(2, room), Streams(2, room)
            for number in range(2):
                own.put(number, {Block: torch.tensor(number), 1: torch.tensor(5)})
                others.put(number, {Block: torch.tensor(10 + number)})
            own.take(others)
            found = [own.get(number) for number in range(2)]
            assert [(int(one[Block]), int(one[1])) for one in found] == [(10, 5), (11, 5)]
            assert others.get(0) == others.get(1) == {}


def test_a_disk_that_fills_up_is_told_with_the_file_and_what_to_do(tmp_path: Path, little_room: int) -> None:
    def kept() -> Any:
        with Room(0, tmp_path) as room:
            streams = Streams(2, room)
            streams.put(0, {Block: torch.zeros(little_room, dtype=torch.uint8)})
            streams.put(1, {Block: torch.zeros(little_room + 1, dtype=torch.uint8)})
            assert streams.get(0)[Block].numel() == little_room
            return streams.get(1)

    with pytest.raises(CalibrationError, match=r"llmc-calls-\w+/1 cannot be written: .* give base\.memory more"):
        kept()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_was_cut_is_told(tmp_path: Path) -> None:
    with Room(0, tmp_path) as room:
        kept = room.keep(torch.zeros(100))
        assert isinstance(kept, InFile)
        kept.written.result()
        kept.file.write_bytes(b"short")
        with pytest.raises(CalibrationError, match="is shorter than what was written there"):
            kept.get()


def test_nested_values_keep_their_form(tmp_path: Path) -> None:
    value = ([torch.ones(2)], {"one": (torch.zeros(3), "word"), "two": None}, 4)
    with Room(0, tmp_path) as room:
        found = room.keep(value).get()
    assert map_tree(found, torch.Tensor.tolist, Tensor) == map_tree(value, torch.Tensor.tolist, Tensor)
