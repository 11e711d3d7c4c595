"""Rules of every checkpoint whose linears are stored each in a form of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from llmc.verify import file_rules, value_rules
from llmc.verify.layered import Layered, shape_problems, short
from llmc.verify.lightx2v.name_rules import float_shape_problems
from llmc.verify.sources import Sources
from llmc.verify.storage import FLOATS
from llmc.verify.verdict import Checked, Finding, NotChecked, Verdict, apply_rules, verdict

# of the first block, in the two namings of each network that is known
FIRST = ("blocks.0.self_attn.", "blocks.0.attn1.", "double_blocks.0.", "joint_blocks.0.", "transformer_blocks.0.attn.",
         "blocks.0.attn.", "visual.transformer.0.")  # fmt: skip
LayeredRules = Mapping[str, Callable[[Layered], Finding]]


def layered_verdicts(network: Layered, own: LayeredRules, sources: Sources) -> Iterator[Verdict]:
    """Rules of the files, of names and shapes, the target's own, and of values."""
    yield verdict(network.label, "files whole", file_rules.files_are_whole(network))
    why = network.unreadable
    yield verdict(network.label, "sizes", NotChecked(why) if why else sizes_are_known(network))
    if isinstance(network.described, list):
        why = why or "the sizes of the network are not known"
    yield from apply_rules(network.label, {**NETWORK_RULES, **own}, network, why_not=why)
    yield from apply_rules(network.label, VALUE_RULES, network, sources, why_not=why)


def sizes_are_known(network: Layered) -> Finding:
    """What names and shapes follow from can be told, from config.json or from shapes."""
    if not isinstance(network.described, list):
        return Checked(note=f"{network.known.layers} blocks, {network.known.dim} wide")
    if any(name.startswith(FIRST) for name in network.entries):
        return Checked([f"{', '.join(network.described)} of the network cannot be told: tensors or keys are missing"])
    return NotChecked("known are names of Wan, FLUX.1, HunyuanVideo and SD3, and this is none of them")


def names_are_complete(network: Layered) -> Finding:
    """Nothing of the network is missing, and nothing is there that nobody reads."""
    naming = network.known.naming
    wanted = {each.name(naming) for each in network.float_tensors()}
    known = {each.name(naming) for each in network.known.optional()}
    for linear in network.linears():
        name = linear.name(naming)
        if network.quantized(linear):
            wanted |= {f"{name}.{network.leaves[what]}" for what in ("weight", "weight_scale")}
            known |= {f"{name}.{leaf}" for leaf in (*network.leaves.values(), "comfy_quant")}
        else:
            wanted.add(f"{name}.weight")
    there = network.entries.keys() - {"scaled_fp8"}
    problems = [f"{name} is missing" for name in sorted(wanted - there)]
    problems += [f"{name} is read by nobody" for name in sorted(there - wanted - known)]
    return Checked(problems, f"{len(network.entries)} tensors")


def shapes_are_right(network: Layered) -> Finding:
    """Codes are (outputs, inputs) in a type that a runtime multiplies, scales float32; all else stays float."""
    problems = [f"{entry.name} is {short(entry.dtype)}; it stays float" for each in network.float_tensors()
                if (entry := network.find(each)) is not None and entry.dtype not in FLOATS]  # fmt: skip
    problems += float_shape_problems(network)
    for linear in network.linears():
        problems += shape_problems(network, linear)
    count = sum(network.quantized(linear) for linear in network.linears())
    return Checked(problems, f"{count} of {len(network.linears())} linears in the blocks are quantized")


def judged_are_quantized(network: Layered, sources: Sources) -> Finding:
    """Every linear that the run quantized is stored as codes, and dequantized it is what was judged, bit for bit."""
    found = value_rules.weights_are_the_judged_ones(network, sources)
    if isinstance(found, NotChecked):
        return found
    stored = {name for linear in network.linears() if network.quantized(linear) for name, _ in linear.parts}
    lost = sorted(sources.judged.get(network.part, {}).keys() - stored)
    return Checked(
        [*found.problems, *(f"{name} was judged quantized, and is not stored so" for name in lost)], found.note
    )


NETWORK_RULES: LayeredRules = {"names": names_are_complete, "types, shapes": shapes_are_right}
VALUE_RULES: Mapping[str, Callable[[Layered, Sources], Finding]] = {
    "scale values": value_rules.scales_are_good,
    "against the float model": value_rules.weights_are_the_models,
    "against the judged weights": judged_are_quantized,
}
