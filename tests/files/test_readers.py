"""What each reader takes, and in which words it refuses all else."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from llmc.errors import ExportError
from llmc.files.header import BITS, Header, read_header, scan_header
from llmc.files.json_text import NotJson, levels_of, parse_json, read_json, read_object, read_object_if_there
from llmc.files.regular import is_inside, open_file, read_file
from llmc.files.shards import read_index
from llmc.files.state_dict import MOST_LEVELS, Unreadable, load_saved, named_tensors
from llmc.files.words import LONGEST, shown, some

FLOAT = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
NEXT = {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}


def with_header(path: Path, rows: dict[str, Any] | bytes, data: int = 8) -> Path:
    text = rows if isinstance(rows, bytes) else json.dumps(rows).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    return path


# regular files


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda path: None, "it is not there"),
        (Path.mkdir, "it is a folder"),
        (os.mkfifo, "it is a FIFO"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
        (lambda path: path.symlink_to("nowhere"), "a link that leads nowhere"),
    ],
)
def test_what_is_no_regular_file_is_refused_by_its_kind(tmp_path: Path, make: Callable[[Path], Any], why: str) -> None:
    make(tmp_path / "file")
    with pytest.raises(ExportError, match=rf"file is no file.*{why}; only regular files are read"):
        open_file(tmp_path / "file", ExportError)


def test_a_link_to_a_file_is_read_as_in_a_cache_of_the_hub(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "0123").write_text('{"a": 1}')
    (tmp_path / "snapshot").mkdir()
    (tmp_path / "snapshot" / "config.json").symlink_to("../blobs/0123")
    assert read_object(tmp_path / "snapshot" / "config.json", ExportError) == {"a": 1}


def test_a_name_that_no_file_can_have_is_refused(tmp_path: Path) -> None:
    for name in ("a\0b", "x" * 5000):
        with pytest.raises(ExportError, match="is no file"):
            open_file(tmp_path / name, ExportError)


def test_a_file_that_is_larger_than_its_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(11))
    assert len(read_file(tmp_path / "file", 11, ExportError)) == 11
    with pytest.raises(ExportError, match="has more than 10 bytes"):
        read_file(tmp_path / "file", 10, ExportError)


@pytest.mark.parametrize(("name", "inside"), [
    ("a", True), ("a/b", True), ("./a", True), ("a..b", True), ("", False), (".", False), ("..", False),
    ("../a", False), ("a/../../b", False), ("/a", False), ("a\0", False),
])  # fmt: skip
def test_a_name_is_inside_as_it_is_written(name: str, inside: bool) -> None:
    assert is_inside(name) == inside


# JSON


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b"", "Expecting value"),
        (b"[1,", "Expecting value"),
        (b"\xff", "'utf-8' codec"),
        ('{"a": 1}'.encode("utf-16"), "'utf-8' codec"),
        (b'{"a": 1, "b": {"c": 1, "c": 2}}', "it has more than once: c"),
        (b"[" * 70 + b"]" * 70, "nested deeper than 64 levels"),
        (b"[" * 200_000, "nested deeper than 64 levels"),
        (b"9" * 5000, "Exceeds the limit"),
        (b'["\\ud800"]', "half of a character"),
    ],
)
def test_what_is_no_json_within_bounds_is_refused(tmp_path: Path, text: bytes, why: str) -> None:
    with pytest.raises(NotJson, match=why):
        parse_json(text)
    (tmp_path / "file.json").write_bytes(text)
    with pytest.raises(ExportError, match=rf"file.json is no JSON: .*{why}.*; copy or download it again"):
        read_json(tmp_path / "file.json", ExportError)


def test_whole_characters_deep_values_and_infinities_are_read() -> None:
    assert parse_json(b'["\\ud83d\\ude00", -Infinity, 1e999]') == ["\U0001f600", float("-inf"), float("inf")]
    assert levels_of(parse_json(b"[" * 64 + b"]" * 64)) == 64 and levels_of(7) == 0


def test_an_object_knows_where_it_was_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    assert read_object_if_there(path, ExportError) is None
    path.write_text('{"a": 1}')
    assert (found := read_object_if_there(path, ExportError)) == {"a": 1} and found is not None and found.path == path
    path.write_text("[1]")
    with pytest.raises(ExportError, match="holds a list, not keys with values"):
        read_object_if_there(path, ExportError)


# headers


@pytest.mark.parametrize(
    ("rows", "why"),
    [
        ({"a": FLOAT, "b": {**NEXT, "data_offsets": [0, 4]}}, "has .* asks for .* too long; .* b overlaps a"),
        ({"a": FLOAT, "b": {**NEXT, "shape": [2], "data_offsets": [0, 8]}}, "b overlaps a"),
        ({"b": NEXT}, "b does not follow the header"),
        ({"a": {**FLOAT, "data_offsets": ["0", "4"]}}, "nothing is said of a"),
        ({"a": {**FLOAT, "data_offsets": [-4, 4]}}, "nothing is said of a"),
        ({"a": {**FLOAT, "data_offsets": [4, 0]}}, "nothing is said of a"),
        ({"a": {**FLOAT, "data_offsets": [True, 4]}}, "nothing is said of a"),
        ({"a": {**FLOAT, "shape": [1.0]}}, "nothing is said of a"),
        ({"a": {**FLOAT, "shape": [1] * 100}}, "nothing is said of a"),
        ({"a": {**FLOAT, "shape": [2**70]}}, "nothing is said of a"),
        ({"a": {**FLOAT, "shape": [3]}, "b": NEXT}, r"has 4 bytes for a, and a shape of \[3\] in F32"),
        ({"a": {**FLOAT, "dtype": "F31"}, "b": NEXT}, "has a stored as F31, which is no type"),
        ({"a": {"dtype": "F32", "shape": [0, 2**62, 2**62], "data_offsets": [0, 0]}}, "has 0 bytes for a"),
        ({"a": FLOAT, "b": NEXT, "__metadata__": {"x": 1}}, "its __metadata__ is no object of texts"),
        ({"a": FLOAT, "b": NEXT, "__metadata__": ["x"]}, "its __metadata__ is no object of texts"),
        (b"[]", "has no whole header.*it holds a list"),
        (b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{}}', "it has more than once: a"),
        (b'{"\\ud800":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', "half of a character"),
    ],
)
def test_a_header_that_does_not_describe_the_file_is_refused(
    tmp_path: Path, rows: dict[str, Any] | bytes, why: str
) -> None:
    path = with_header(tmp_path / "file", rows)
    with pytest.raises(ExportError, match=rf"file .*{why}.*; copy or download it again"):
        read_header(path, ExportError)


@pytest.mark.parametrize("length", [0, 1, 2**31, 2**40, 2**63, 2**64 - 1])
def test_a_header_of_another_length_is_refused_at_once(tmp_path: Path, length: int) -> None:
    path = with_header(tmp_path / "file", {"a": FLOAT, "b": NEXT})
    path.write_bytes(length.to_bytes(8, "little") + path.read_bytes()[8:])
    with pytest.raises(ExportError, match="has no whole header"):
        read_header(path, ExportError)


def test_what_is_sound_of_a_header_is_kept_beside_what_is_wrong(tmp_path: Path) -> None:
    header = scan_header(with_header(tmp_path / "file", {"a": FLOAT, "b": {**NEXT, "shape": "x"}}), ExportError)
    assert list(header.tensors) == ["a"] and len(header.problems) == 1
    assert scan_header(tmp_path / "gone", ExportError) == Header(problems=("is no file: it is not there",))


@pytest.mark.parametrize("code", BITS)
def test_a_header_is_read_wherever_the_library_reads_one(tmp_path: Path, code: str) -> None:
    """A type of less than a byte has as many elements as fill some."""
    row = {"dtype": code, "shape": [8], "data_offsets": [0, BITS[code]]}
    path = with_header(tmp_path / "file", {"a": row}, BITS[code])
    header = read_header(path, ExportError)
    assert header.tensors["a"].shape == (8,) and header.tensors["a"].stop == path.stat().st_size
    with safe_open(path, "pt") as file:
        assert list(file.keys()) == ["a"]


def test_what_the_library_refuses_is_refused(tmp_path: Path) -> None:
    hole = with_header(tmp_path / "file", {"a": FLOAT, "b": {**NEXT, "data_offsets": [8, 12]}}, 12)
    with pytest.raises(SafetensorError), safe_open(hole, "pt"):
        pass
    with pytest.raises(ExportError, match="b does not follow a"):
        read_header(hole, ExportError)


# indexes


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "..", ".", "", "below/a", "a\0", "x" * 300])
def test_an_index_names_files_beside_it_and_nothing_else(tmp_path: Path, name: str) -> None:
    (tmp_path / "secret.safetensors").touch()
    (tmp_path / "folder" / "below").mkdir(parents=True)
    (tmp_path / "folder" / "below" / "a").touch()
    index = tmp_path / "folder" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": name}}))
    with pytest.raises(ExportError, match=r"model.safetensors.index.json names .*(outside of its folder|not there)"):
        read_index(index, ExportError)


# what torch.save writes


def test_numbers_for_names_views_of_few_values_and_other_kinds_of_tensors_are_refused(tmp_path: Path) -> None:
    for value, why in [
        ({1: torch.ones(2)}, r"1 \(a int for a name\)"),
        ({"a": torch.ones(1).expand(2**20, 2**20)}, "a tensor larger than the file"),
        ({"a": torch.eye(2).to_sparse()}, "a tensor of another kind"),
        ({"a": torch.ones(2, device="meta")}, "on meta"),
        ([torch.ones(2)], "holds a list"),
    ]:
        torch.save(value, tmp_path / "file.pth")
        with pytest.raises(ExportError, match=why):
            named_tensors(tmp_path / "file.pth", load_saved(tmp_path / "file.pth", ExportError), ExportError)


def test_what_holds_itself_or_another_too_often_is_refused(tmp_path: Path) -> None:
    endless: list[Any] = []
    endless.append(endless)
    doubled: Any = [1]
    for _ in range(MOST_LEVELS - 4):
        doubled = [doubled, doubled]
    for value, why in ((endless, "nested deeper"), (doubled, "more than")):
        torch.save(value, tmp_path / "file.pth")
        with pytest.raises(Unreadable, match=why):
            load_saved(tmp_path / "file.pth", ExportError)


# words


def test_a_name_in_a_message_is_short_and_cannot_move_the_cursor(tmp_path: Path) -> None:
    assert shown("\x1b[2J") == r"\x1b[2J" and len(shown("x" * 10**6)) == LONGEST
    assert some(["a", "b", "c", "d"]) == "a, b, c and 1 more"
    path = tmp_path / "file.safetensors"
    save_file({"\x1b[2J": torch.ones(1)}, path)
    path.write_bytes(path.read_bytes()[:-1])
    assert "\x1b" not in scan_header(path, ExportError).problems[0]
