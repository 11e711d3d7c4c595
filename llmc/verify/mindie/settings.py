"""Rules of MindIE about what is no tensor: how attentions are quantized, and which steps have static grids."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmc.errors import ExportError
from llmc.files.json_text import object_in
from llmc.verify.files import read_keys
from llmc.verify.judged import JudgedPart
from llmc.verify.mindie.attention_types import attention_spec
from llmc.verify.mindie.network import Described
from llmc.verify.mindie.value_rules import POLICY
from llmc.verify.verdict import Checked, Finding, NotChecked

CALIBRATION = ("recall", "rotate")  # what a spec says of how it was calibrated; tensors show what came of it


def attention_is_the_judged_one(network: Described) -> Finding:
    """Every attention that was judged quantized is so, on the same grids, and no other is."""
    judged = network.sources.judged(network.part)
    if not isinstance(judged, JudgedPart):
        return judged if isinstance(judged, NotChecked) else Checked([judged])
    return Checked(list(_attention_problems(network, judged)), f"{len(network.own_attentions)} are quantized")


def _attention_problems(network: Described, judged: JudgedPart) -> Iterator[str]:
    wanted = {name: spec for name, spec in judged.attentions.items() if isinstance(spec, dict)}
    found = network.own_attentions
    yield from (f"{name} was judged quantized, and is float" for name in wanted if name not in found)
    for name, place in found.items():
        if name not in wanted:
            yield f"{place} is quantized, and {name} was judged in float"
            continue
        try:
            spec = attention_spec(network.attentions[place], network.run_dtype).model_dump(mode="json")
        except ExportError as error:
            yield str(error)
            continue
        if _grids(spec) != _grids(wanted[name]):
            yield f"{place} is {network.attentions[place]}, which is not how {name} was judged"


def _grids(spec: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in spec.items() if key not in CALIBRATION}


def schedule_is_the_judged_one(network: Described) -> Finding:
    """The steps that use calibrated grids are those of the run."""
    judged = network.sources.judged(network.part)
    if not isinstance(judged, JudgedPart):
        return judged if isinstance(judged, NotChecked) else Checked([judged])
    wanted = object_in(judged.said, "steps")
    says = read_keys(network.folder / POLICY) or {}
    problems = [f"{POLICY} has {says.get(key)} for {key}; the run judged {wanted.get(key)}"
                for key in ("steps", "first_static_step") if says.get(key) != wanted.get(key)]  # fmt: skip
    return Checked(problems, "the steps of the run" if wanted else "no linear has grids for single steps")
