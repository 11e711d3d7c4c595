"""The index of a checkpoint in several files: which tensor lies in which, all of them beside the index."""

from __future__ import annotations

from pathlib import Path

from llmc.errors import LlmcError
from llmc.files.json_text import read_object
from llmc.files.regular import file_problem, is_inside
from llmc.files.words import some


def read_index(path: Path, refusal: type[LlmcError]) -> dict[str, str]:
    """Tensor -> the name of its file, as the index has it; every one is there."""
    weight_map = read_object(path, refusal).get("weight_map")
    if (
        not isinstance(weight_map, dict)
        or not weight_map
        or not all(isinstance(name, str) for name in weight_map.values())
    ):
        raise refusal(
            f"{path} has no weight_map, which says of each tensor in which file it is; copy or download it again, or "
            "delete it: the files beside it can be read without"
        )
    names = sorted(set(weight_map.values()))
    if outside := [name for name in names if not is_inside(name) or Path(name).name != name]:
        raise refusal(
            f"{path} names {some(outside)}, outside of its folder; an index names files beside it: copy or download it "
            "again"
        )
    if missing := [name for name in names if file_problem(path.parent / name)]:
        raise refusal(
            f"{path} names {some(missing)}, not there; every file of an index must lie beside it; copy or download them"
        )
    return weight_map
