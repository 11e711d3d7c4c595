"""Rules of MindIE about attention: from version 3 on it measures scales at run time and may read rotations, 2.3 reads a
scale for each head.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from llmc.verify.mindie.network import HEADS, Described
from llmc.verify.storage import FLOATS
from llmc.verify.verdict import Checked, Finding

INT8 = "FAQuant"
VERSIONS: Mapping[str, frozenset[str]] = {  # type of an attention -> who reads it
    INT8: frozenset({"2.3"}),
    "FP8_DYNAMIC": frozenset({"3", "2026-07"}),
    "MXFP8_DYNAMIC": frozenset({"2026-07"}),
    "MXFP4_DYNAMIC": frozenset({"2026-07"}),
}
STOPS_UNROTATED = ("FP8_DYNAMIC", "MXFP8_DYNAMIC")
NEAR = 0.02  # of the unit matrix: what rounding a rotation to bfloat16 leaves
Problems = Iterator[str]


def attention_is_whole(network: Described) -> Finding:
    """Each attention that is called quantized is so as its MindIE reads it, with all that its class looks for."""
    kinds = network.attentions
    problems = [f"{name}: {problem}" for name, kind in kinds.items() for problem in _problems(network, name, kind)]
    for name in network.entries:
        found = re.fullmatch(r"(.+)\.(q_rot|k_rot|fa_[qkv]\.(scale|offset))", name)
        if found and found[1] not in kinds:
            problems.append(f"{name} is read by nobody: no row says that {found[1]} is quantized")
    counts = {kind: list(kinds.values()).count(kind) for kind in kinds.values()}
    return Checked(problems, ", ".join(f"{count} in {kind}" for kind, count in counts.items()) or "attention is float")


def _problems(network: Described, name: str, kind: str) -> Problems:
    if kind not in VERSIONS:
        yield f"it is called {kind}, which MindIE passes over; it knows {', '.join(VERSIONS)}"
        return
    if network.generation is not None and network.generation not in VERSIONS[kind]:
        yield f"{kind} is read by {' and '.join(sorted(VERSIONS[kind]))}; this was written for {network.generation}"
    if (soc := network.about.get("soc")) is not None and (soc == "a5") == (kind == INT8):
        yield f"{kind} does not run on {soc}"
    if network.by_name and not any(each.startswith(f"{name}.") for each in network.by_name):
        yield "it is no module of MindIE's network"
    yield from _scale_problems(network, name) if kind == INT8 else _rotation_problems(network, name, kind)


def _scale_problems(network: Described, name: str) -> Problems:
    wanted = [f"{name}.fa_{role}.{leaf}" for role in "qkv" for leaf in ("scale", "offset")]
    if missing := [each for each in wanted if each not in network.entries]:
        yield f"{', '.join(missing)} missing"
        return
    config = network.config or {}
    heads = next((config[key] for key in HEADS if key in config), None)
    for each in wanted:
        entry = network.entries[each]
        rows = heads if isinstance(heads, int) else (entry.shape or (0,))[0]
        if entry.shape != (rows, 1):
            yield f"{each} is {list(entry.shape)}; there is one for each head, {[rows, 1]}"
        values = entry.read().float()
        if each.endswith("scale") and not (values.isfinite().all() and (values > 0).all()):
            yield f"{each} holds values that are not finite and positive"
    key, value = (network.entries[f"{name}.fa_{role}.offset"].read() for role in "kv")
    if not torch.equal(key, value):
        yield "MindIE uses the offset of its keys for its values, and they differ"


def _rotation_problems(network: Described, name: str, kind: str) -> Problems:
    found = {leaf: network.entries.get(f"{name}.{leaf}") for leaf in ("q_rot", "k_rot")}
    there = [entry for entry in found.values() if entry is not None]
    if len(there) == 1 or (not there and kind in STOPS_UNROTATED):
        missing = [f"{name}.{leaf}" for leaf, entry in found.items() if entry is None]
        yield f"{' and '.join(missing)} missing: {kind} {'stops without them' if not there else 'needs both'}"
    if wrong := [entry for entry in there if entry.dtype not in FLOATS or len(set(entry.shape)) != 1 or
                 len(entry.shape) != 2]:  # fmt: skip
        yield f"{wrong[0].name} is {list(wrong[0].shape)} in {wrong[0].dtype}; it is a square matrix of floats"
    elif len(there) == 2:
        query, key = (entry.read().float() for entry in there)
        if query.shape != key.shape or not _are_inverse(query, key):
            yield "q_rot and k_rot change the products of queries and keys: they must be one rotation"


def _are_inverse(query: Tensor, key: Tensor) -> bool:
    return bool((query @ key.T - torch.eye(len(query))).abs().max() <= NEAR)
