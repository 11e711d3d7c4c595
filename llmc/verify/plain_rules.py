"""Rules of every checkpoint whose linears are stored each in a form of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from llmc.verify import file_rules, value_rules
from llmc.verify.files import Entry
from llmc.verify.plain_codes import PlainNetwork, shape_problems
from llmc.verify.storage import FLOATS, short
from llmc.verify.verdict import Checked, Finding, Verdict, apply_rules, verdict

PlainRules = Mapping[str, Callable[[Any], Finding]]  # of a PlainNetwork


def plain_verdicts(network: PlainNetwork, own: PlainRules, last: PlainRules) -> Iterator[Verdict]:
    """Rules of the files, of names and shapes, the target's own, of values, and what the target asks for at the end."""
    yield verdict(network.label, "files whole", file_rules.files_are_whole(network))
    why = network.unknown
    yield verdict(network.label, "sizes", sizes_are_known(network) if why is None else why)
    rules = {**NETWORK_RULES, **own, **VALUE_RULES, **last}
    yield from apply_rules(network.label, rules, network, why_not=why)


def sizes_are_known(network: PlainNetwork) -> Finding:
    """What names and shapes follow from is known."""
    return Checked(note=f"{len(network.everything)} tensors, {len(network.linears)} linears in the blocks")


def names_are_complete(network: PlainNetwork) -> Finding:
    """Nothing of the network is missing, and nothing is there that nobody reads."""
    wanted, known = {each.tensor for each in network.float_tensors}, set(network.unread)
    for linear in network.linears:
        if network.quantized(linear):
            wanted |= {f"{linear.name}.{network.leaves[what]}" for what in ("weight", "weight_scale")}
            known |= {f"{linear.name}.{leaf}" for leaf in (*network.leaves.values(), "comfy_quant")}
        else:
            wanted.add(linear.tensor)
    there = network.entries.keys()
    problems = [f"{name} is missing" for name in sorted(wanted - there)]
    problems += [f"{name} is read by nobody" for name in sorted(there - wanted - known)]
    return Checked(problems, f"{len(network.entries)} tensors")


def shapes_are_right(network: PlainNetwork) -> Finding:
    """Codes are (outputs, inputs) in a type that a runtime multiplies, scales float32; all else stays float."""
    there = [entry for each in network.float_tensors if (entry := network.find(each)) is not None]
    problems = [f"{entry.name} is {short(entry.dtype)}; it stays float" for entry in there
                if entry.dtype not in FLOATS]  # fmt: skip
    problems += file_rules.shape_problems(network)
    for linear in network.linears:
        problems += shape_problems(network, linear)
    count = sum(network.quantized(linear) for linear in network.linears)
    return Checked(problems, f"{count} of {len(network.linears)} linears in the blocks are quantized")


def scales_are_good(network: PlainNetwork) -> Finding:
    """Every scale is finite and positive, and exact in the type in which a runtime may dequantize."""
    problems: list[str] = []
    for linear, entries in network.sound():
        for entry, is_scale in network.scales(linear, entries):
            problems += _scale_problems(entry, is_scale, network.exact_scales)
    return Checked(problems)


def _scale_problems(entry: Entry, is_scale: bool, exact: torch.dtype) -> Iterator[str]:
    values = entry.read().float()
    if not values.isfinite().all():
        yield f"{entry.name} holds NaN or infinity"
    elif (values < 0).any() or (is_scale and (values == 0).any()):
        yield f"{entry.name} holds scales that are not positive"
    elif is_scale and not torch.equal(values.to(exact).float(), values):
        yield f"{entry.name} is not exact in {short(exact)}, to which the runtime rounds it"


NETWORK_RULES: PlainRules = {"names": names_are_complete, "types, shapes": shapes_are_right}
VALUE_RULES: PlainRules = {
    "scale values": scales_are_good,
    "against the float model": value_rules.weights_are_the_models,
    "floats against the model": value_rules.floats_are_the_models,
    "against the judged weights": value_rules.weights_are_the_judged_ones,
    "against the judged tensors": value_rules.tensors_are_the_judged_ones,
}
