"""Ways to corrupt a file: each is told by a seed, and changes a good file of any kind into one that is not."""

from __future__ import annotations

import json
import os
import shutil
import socket
import zipfile
from collections.abc import Callable, Iterator
from math import prod
from pathlib import Path
from random import Random
from typing import Any

import torch

Change = Callable[[Random, bytes], bytes]
# what may stand where something else is expected
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, 10**30, 1.5, -0.5, float("nan"), float("inf"), "", "7", "x" * 5000,
    "../secret.safetensors", "/etc/passwd", "a\0b", [], {}, [1], [[]], ["a"], [-1, 4], {"a": 1}, "\ud800",
)  # fmt: skip
DEEP = 100_000
SAME_SIZE = (["F32", "I32", "U32"], ["F16", "BF16", "I16", "U16"], ["I8", "U8", "F8_E4M3", "F8_E5M2", "BOOL"])


def corrupt(path: Path, seed: int) -> str:
    """Replace the file by a corrupted one; returns what was done."""
    random, content = Random(seed), path.read_bytes()
    kind = random.choices(("special", "bytes", "own"), (1, 2, 4))[0]
    path.unlink()
    if kind == "special":
        name = random.choice(list(SPECIAL))
        SPECIAL[name](path)
    else:
        ways = BYTES if kind == "bytes" else _ways_of(path)
        name = random.choice(list(ways))
        path.write_bytes(ways[name](random, content))
    return name


def _ways_of(path: Path) -> dict[str, Change]:
    if path.suffix == ".safetensors":
        return HEADERS
    if path.suffix in (".pth", ".pt"):
        return PICKLES
    return LINES if path.suffix == ".jsonl" else JSONS


# in place of a file


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


SPECIAL: dict[str, Callable[[Path], object]] = {
    "a FIFO": os.mkfifo,
    "a folder": Path.mkdir,
    "a socket": _socket,
    "an endless device": lambda path: path.symlink_to("/dev/zero"),
    "an empty device": lambda path: path.symlink_to("/dev/null"),
    "a link to nowhere": lambda path: path.symlink_to(path.parent / "nowhere"),
    "a link to itself": lambda path: path.symlink_to(path),
    "nothing": lambda path: None,
}


# any file


def _flipped(random: Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 8))):
        if changed:
            # half of them near the beginning, where headers are
            last = min(len(changed), 400) if random.random() < 0.5 else len(changed)
            changed[random.randrange(last)] ^= 1 << random.randrange(8)
    return bytes(changed)


def _cut(random: Random, content: bytes) -> bytes:
    return content[: random.randrange(len(content) + 1)]


def _cut_out(random: Random, content: bytes) -> bytes:
    first, last = sorted((random.randrange(len(content) + 1), random.randrange(len(content) + 1)))
    return content[:first] + content[last:]


def _overwritten(random: Random, content: bytes) -> bytes:
    place = random.randrange(len(content) + 1)
    noise = random.randbytes(random.choice((1, 4, 16)))
    return content[:place] + noise + content[place + len(noise) :]


BYTES: dict[str, Change] = {
    "bits flipped": _flipped,
    "cut off": _cut,
    "a piece cut out": _cut_out,
    "overwritten": _overwritten,
    "longer": lambda random, content: content + random.randbytes(9),
    "empty": lambda random, content: b"",
    "noise": lambda random, content: random.randbytes(200),
    "zeros": lambda random, content: bytes(len(content)),
}


# JSON


def _places(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield place
    if isinstance(value, dict | list):
        for key, inside in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(inside, (*place, key))


def _chosen(random: Random, value: Any) -> tuple[Any, ...]:
    """Any place but the whole; those on top are as likely as all others."""
    places = [place for place in _places(value) if place]
    top = [place for place in places if len(place) == 1]
    return random.choice(random.choice((top, places))) if places else ()


def _holder(value: Any, place: tuple[Any, ...]) -> Any:
    for key in place[:-1]:
        value = value[key]
    return value


def _odd_value(random: Random, value: Any) -> Any:
    for _ in range(random.choice((1, 1, 1, 3))):
        if place := _chosen(random, value):
            _holder(value, place)[place[-1]] = random.choice(ODD)
    return value


def _without_key(random: Random, value: Any) -> Any:
    if place := _chosen(random, value):
        del _holder(value, place)[place[-1]]
    return value


def _other_key(random: Random, value: Any) -> Any:
    place = _chosen(random, value)
    if place and isinstance(holder := _holder(value, place), dict):
        holder[random.choice(("", "..", "x", "_class_name", f"{place[-1]}2", "a\0", "\n"))] = holder.pop(place[-1])
    return value


def _swapped(random: Random, value: Any) -> Any:
    one, two = _chosen(random, value), _chosen(random, value)
    if one and two and one != two[: len(one)] and two != one[: len(two)]:
        first, second = _holder(value, one), _holder(value, two)
        first[one[-1]], second[two[-1]] = second[two[-1]], first[one[-1]]
    return value


def _wrapped(random: Random, value: Any) -> Any:
    return random.choice(([value], {"a": value}, list(value) if isinstance(value, dict) else {}, None, 7, "text"))


def _other_number(random: Random, value: Any) -> Any:
    places = [place for place in _places(value) if place and type(_holder(value, place)[place[-1]]) in (int, float)]
    if places:
        place = random.choice(places)
        holder, last = _holder(value, place), place[-1]
        found = holder[last]
        holder[last] = random.choice((-found, found + 1, found * 1000, found - 1, str(found), float(found), 10**9, 0))
    return value


def _of_json(change: Callable[[Random, Any], Any]) -> Change:
    return lambda random, content: json.dumps(change(random, json.loads(content))).encode("utf-8", "surrogatepass")


def _key_twice(random: Random, content: bytes) -> bytes:
    place = content.find(b"{") + 1
    name = next(iter(found)) if isinstance(found := json.loads(content), dict) and found else "a"
    return content[:place] + json.dumps(name).encode() + b": 1, " + content[place:]


def _nested(random: Random, content: bytes) -> bytes:
    text = content.decode()
    places = [i for i, letter in enumerate(text) if letter in ":["]
    place = random.choice(places) + 1 if places else 0
    return (text[:place] + random.choice(("[", '{"a":')) * DEEP + text[place:]).encode()


def _long_number(random: Random, content: bytes) -> bytes:
    return content.replace(b": ", b": " + b"9" * 5000, 1)


VALUES: dict[str, Callable[[Random, Any], Any]] = {
    "an odd value": _odd_value, "another number": _other_number, "a key less": _without_key,
    "another key": _other_key, "values swapped": _swapped, "wrapped": _wrapped,
}  # fmt: skip
TEXTS: dict[str, Change] = {
    "a key twice": _key_twice,
    "nested without end": _nested,
    "a long number": _long_number,
    "UTF-16": lambda random, content: content.decode().encode("utf-16"),
    "no UTF-8": lambda random, content: content.replace(b'"', b'"\xff', 1),
    "NaN": lambda random, content: content.replace(b"true", b"NaN").replace(b"null", b"Infinity"),
}
JSONS: dict[str, Change] = {name: _of_json(change) for name, change in VALUES.items()} | TEXTS


def _of_line(change: Change) -> Change:
    def changed(random: Random, content: bytes) -> bytes:
        lines = content.splitlines()
        number = random.randrange(len(lines))
        lines[number] = change(random, lines[number])
        return b"\n".join(lines)

    return changed


LINES: dict[str, Change] = {name: _of_line(change) for name, change in JSONS.items()}


# safetensors


def _of_header(change: Change) -> Change:
    def changed(random: Random, content: bytes) -> bytes:
        length = int.from_bytes(content[:8], "little")
        text = change(random, content[8 : 8 + length])
        return len(text).to_bytes(8, "little") + text + content[8 + length :]

    return changed


def _another_length(random: Random, content: bytes) -> bytes:
    length = int.from_bytes(content[:8], "little")
    others = (0, 1, length - 1, length + 1, len(content), 2**31, 2**40, 2**63, 2**64 - 1, 100_000_001)
    return random.choice(others).to_bytes(8, "little") + content[8:]


def _tensor(change: Callable[[Random, dict[str, Any], list[dict[str, Any]]], object]) -> Change:
    """A change of the row of one tensor, which may look at the others."""

    def changed(random: Random, value: Any) -> Any:
        rows = [row for name, row in value.items() if name != "__metadata__"]
        if rows:
            change(random, random.choice(rows), rows)
        return value

    return _of_header(_of_json(changed))


def _odd_offset(random: Random, row: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    first, last = row["data_offsets"]
    row["data_offsets"] = random.choice((
        [str(first), str(last)], [-first - 8, last], [first, -last], [last, first], [first], [first, last, last],
        {"a": 1}, None, [first + 1, last + 1], [float(first), float(last)], [first, 2**63], [first, 10**40],
        [True, last], [0, last - first], random.choice(rows)["data_offsets"],
    ))  # fmt: skip


def _odd_shape(random: Random, row: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    shape = row["shape"]
    row["shape"] = random.choice((
        shape[::-1], [*shape, 2], [*shape, 1], shape[:-1], [-size for size in shape], [str(size) for size in shape],
        [float(size) for size in shape], [2**63, 0], [2**40] * 3, [1] * 100, None, "4", [[]], [0], [10**400],
        random.choice(rows)["shape"],
    ))  # fmt: skip


def _same_size(random: Random, row: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Another shape or type of as many bytes, which a header may well have."""
    shape = row["shape"]
    count = prod(shape)
    row["shape"] = random.choice((
        [count], [1, count], [count, 1], [*shape, 1], [1, *shape], shape[::-1], shape, [1] * 5 + [count],
        [] if count == 1 else [count], [2, count // 2] if count % 2 == 0 else shape,
    ))  # fmt: skip
    alike = next((codes for codes in SAME_SIZE if row["dtype"] in codes), [row["dtype"]])
    if random.random() < 0.3:
        row["dtype"] = random.choice(alike)


def _odd_type(random: Random, row: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    row["dtype"] = random.choice(("F32", "F16", "BF16", "I8", "U8", "F8_E4M3", "BOOL", "I64", "F4", "C64", "X", 3, []))


def _swapped_names(random: Random, value: Any) -> Any:
    names = [name for name in value if name != "__metadata__"]
    one, two = random.choice(names), random.choice(names)
    value[one], value[two] = value[two], value[one]
    return value


HEADERS: dict[str, Change] = {
    "another length": _another_length,
    "odd offsets": _tensor(_odd_offset),
    "an odd shape": _tensor(_odd_shape),
    "an odd type": _tensor(_odd_type),
    "another shape": _tensor(_same_size),
    "another shape of the same size": _tensor(_same_size),
    "names swapped": _of_header(_of_json(_swapped_names)),
    **{f"header: {name}": _of_header(change) for name, change in JSONS.items()},
}


# what torch.save writes


def _of_saved(change: Callable[[Random, dict[Any, Any]], Any]) -> Change:
    def changed(random: Random, content: bytes) -> bytes:
        folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"saved-{os.getpid()}"
        folder.mkdir(exist_ok=True)
        try:
            (folder / "file.pth").write_bytes(content)
            value = torch.load(folder / "file.pth", weights_only=True)
            torch.save(change(random, value), folder / "file.pth")
            return (folder / "file.pth").read_bytes()
        finally:
            shutil.rmtree(folder)

    return changed


def _of_record(ending: str) -> Change:
    """Bytes of one record of the archive, whose checksums are right."""

    def changed(random: Random, content: bytes) -> bytes:
        folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"record-{os.getpid()}"
        folder.mkdir(exist_ok=True)
        try:
            (folder / "old").write_bytes(content)
            with zipfile.ZipFile(folder / "old") as old, zipfile.ZipFile(folder / "new", "w") as new:
                for info in old.infolist():
                    record = old.read(info)
                    if info.filename.endswith(ending):
                        record = random.choice((_flipped, _overwritten, _cut))(random, record)
                    new.writestr(info.filename, record)
            return (folder / "new").read_bytes()
        finally:
            shutil.rmtree(folder)

    return changed


def _looped(random: Random, value: Any) -> Any:
    itself: list[Any] = [value]
    itself.append(itself)
    return {"a": itself}


def _doubled(random: Random, value: Any) -> Any:
    nested: Any = value
    for _ in range(40):
        nested = [nested, nested]
    return nested


def _named(value: Any) -> dict[Any, Any]:
    return value if isinstance(value, dict) else {"a": torch.ones(2)}


def _reshaped(random: Random, value: Any) -> Any:
    found = dict(_named(value))
    name = random.choice([name for name, tensor in found.items() if isinstance(tensor, torch.Tensor)] or ["a"])
    tensor = found.get(name, torch.ones(2))
    found[name] = random.choice((
        tensor.flatten(), tensor[None], tensor[..., None], tensor.T if tensor.dim() == 2 else tensor, tensor[:0],
        tensor.flatten()[0].clone(), tensor.double(), tensor.half(), tensor.char(), torch.cat([tensor.flatten()] * 2),
    ))  # fmt: skip
    return found


def _odd_tensor(random: Random, value: Any) -> Any:
    found = dict(_named(value))
    name = random.choice(list(found))
    found[name] = random.choice((
        torch.ones(1).expand(2**20, 2**20), torch.eye(3).to_sparse(), torch.empty(2, device="meta"), torch.ones(()),
        torch.ones(2, dtype=torch.complex64), 7, "a",
        None, torch.nn.Parameter(torch.ones(2)), torch.ones(0, 3), {"b": torch.ones(1)}, torch.ones(2).long(),
    ))  # fmt: skip
    return found


PICKLES: dict[str, Change] = {
    "numbers for names": _of_saved(lambda random, value: dict(enumerate(_named(value).values()))),
    "tensors in a list": _of_saved(lambda random, value: list(_named(value).values())),
    "an odd tensor": _of_saved(_odd_tensor),
    "another shape": _of_saved(_reshaped),
    "another shape or type": _of_saved(_reshaped),
    "nothing in it": _of_saved(lambda random, value: random.choice(({}, [], None, 7, {"module": {}}, {"module": 7}))),
    "in itself": _of_saved(_looped),
    "doubled again and again": _of_saved(_doubled),
    "odd opcodes": _of_record("data.pkl"),
    "odd values": _of_record("data/0"),
    "an odd version": _of_record("version"),
    "an odd byte order": _of_record("byteorder"),
}
