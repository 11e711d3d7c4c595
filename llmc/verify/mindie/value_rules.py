"""Rules of MindIE about values: grids that belong together, tensors against the float model and the judged weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from llmc.verify.files import Entry, read_keys
from llmc.verify.mindie.network import Described, Layer
from llmc.verify.mindie.types import BYTE, FP8, GRIDS, INT8, TYPES, Sizes, deq_values, weight_scale_of
from llmc.verify.storage import E2M1, short
from llmc.verify.verdict import Checked, Finding, some

Problems = Iterator[str]
POLICY = "timestep_policy.json"
POLICY_TARGETS = {"3": "", "2026-07": ', target="w8a8_static_linear"'}  # what a version's own call has at its end
COARSE = 2.0**-10  # of deq_scale in a float16 run, whose operator reads 10 bits of the mantissa


def static_grids_agree(network: Described) -> Finding:
    """Of statically quantized linears: deq_scale is the product of both scales, quant_bias the bias in its steps less
    what the offset adds, the offset an int8."""
    problems, count = [], 0
    for layer, of, entries in network.sound_layers():
        if layer.kind in GRIDS:
            count += 1
            tensors = {leaf: entry.read() for leaf, entry in entries.items()}
            problems += [f"{layer.prefix}.{problem}" for problem in _grid_problems(tensors, of)]
    return Checked(problems, f"{count} static linears" if count else "no linear is static")


def _grid_problems(tensors: Mapping[str, Tensor], of: Sizes) -> Problems:
    offset = tensors["input_offset"].float()
    if not len(offset):
        yield "input_scale has no row"
        return
    if not (offset.frac() == 0).all() or not (offset.abs() <= 128).all() or (offset == 128).any():
        yield f"input_offset is {_extreme(offset)}; it is a whole number from -128 to 127"
        return
    deq, scale = deq_values(tensors["deq_scale"]), weight_scale_of(tensors, of)
    product = tensors["input_scale"].float() * scale.flatten()
    off = float(((deq - product).abs() / product.abs().clamp(min=1e-30)).max())
    if not off <= (COARSE if of.fp16 else 0):
        yield f"deq_scale is not input_scale times a scale of the weight: off by {off:.2g} of it"
        return
    sums = tensors["weight"].sum(1, dtype=torch.int64)
    bias = tensors["bias"].double() if "bias" in tensors else torch.zeros(of.n, dtype=torch.float64)
    wanted = bias / deq.double() - offset.double() * sums
    units = (tensors["quant_bias"] - wanted).abs().max()
    if not units <= 1:
        yield f"quant_bias is not bias / deq_scale - input_offset * sum(weight): off by {float(units):.3g}"


def _extreme(values: Tensor) -> float:
    return float(values.flatten()[values.abs().argmax()])


def steps_are_alike(network: Described) -> Finding:
    """Every linear with a grid for each step has one for all steps of the policy, whose calls name the static ones."""
    rows = {layer.module: of.steps for layer in network.layers if layer.kind == "W8A8_TIMESTEP"
            and (of := network.sizes(layer)) is not None}  # fmt: skip
    says = read_keys(network.folder / POLICY)
    if not rows:
        return Checked([f"{POLICY} is there, and no linear has a grid for each step"] if says is not None else [])
    if says is None:
        return Checked([f"{POLICY} is missing: nobody could tell MindIE in which steps to use the grids"])
    steps, first = says.get("steps"), says.get("first_static_step")
    odd = [f"{module} has {count}" for module, count in rows.items() if count != steps or not count]
    problems = [f"{some(odd)} rows of grids; the schedule has {steps} steps"] if odd else []
    calls = says.get("register")
    for version, target in POLICY_TARGETS.items():
        call = calls.get(version) if isinstance(calls, dict) else None
        wanted = f'policy.register(range({first}, {steps}), "static"{target})'
        if call != wanted:
            problems.append(f"{POLICY} has {call} for version {version}; its steps make it {wanted}")
    return Checked(problems, f"{len(rows)} linears, {steps} steps, static from {first} on")


def values_are_good(network: Described) -> Finding:
    """Scales are finite, positive and exact in the type to which the loader casts them, codes in their range."""
    problems = [problem for layer, _, entries in network.sound_layers()
                for problem in _value_problems(network, layer, entries)]  # fmt: skip
    return Checked(problems)


def _value_problems(network: Described, layer: Layer, entries: Mapping[str, Entry]) -> Problems:
    multiplier = network.entries.get(layer.multiplier)
    scales = [entries[leaf] for leaf in ("weight_scale", "input_scale", "weight_dual_scale", "deq_scale")
              if leaf in entries]  # fmt: skip
    for entry in (*scales, *([multiplier] if multiplier is not None else [])):
        stored = entry.read()
        if stored.dtype == BYTE:
            if (stored == 255).any():
                yield f"{entry.name} holds 255, which is no power of two"
            continue
        values = deq_values(stored)
        cast = _cast(network, layer, entry)
        if not values.isfinite().all() or not (values > 0).all():
            yield f"{entry.name} holds values that are not finite and positive"
        elif cast is not None and not torch.equal(values.to(cast).float(), values):
            yield f"{entry.name} is not exact in {short(cast)}, to which the runtime rounds it"
    codes = entries["weight"].read()
    if codes.dtype == INT8 and TYPES[layer.kind].bits == 4 and not ((codes >= -8) & (codes <= 7)).all():
        yield f"{entries['weight'].name} holds codes beyond -8 to 7"
    if (
        codes.dtype == FP8
        and TYPES[layer.kind].bits == 4
        and not torch.isin(codes.float().abs(), torch.tensor(E2M1)).all()
    ):
        yield f"{entries['weight'].name} holds values that e2m1 has not"


def _cast(network: Described, layer: Layer, entry: Entry) -> torch.dtype | None:
    """The type to which the loader casts a scale; None where it keeps it."""
    leaf = entry.name.rpartition(".")[2]
    if leaf == "mul_scale" or (leaf == "weight_scale" and layer.kind != "W8A8"):
        return network.run_dtype
    kept = network.fp16 and network.generation != "2.3"  # in float32, which takes any
    return network.run_dtype if leaf == "input_scale" and not kept else None
