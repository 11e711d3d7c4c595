"""Rules about values: scales, and weights against the float model and the judged ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from llmc.verify.files import Entry, tensor_digest
from llmc.verify.network import Network, sizes
from llmc.verify.sources import FloatNetwork, Sources, open_float
from llmc.verify.storage import Reading, Storage
from llmc.verify.verdict import Checked, Finding, NotChecked
from llmc.verify.wan import Expected, Linear, Wan

FAR = 0.5  # of a weight's norm: more than any rounding costs, less than any wrong order of elements does (1.4)


def scales_are_good(network: Network, sources: Sources) -> Finding:
    """Every scale is finite, positive, and exact in the type to which the loader casts it."""
    if network.storage is None:
        return NotChecked("the scheme is not known")
    problems = []
    for linear, entries in network.sound():
        for leaf, about in network.storage.leaves(*sizes(linear)).items():
            entry = entries.get(leaf)
            if entry is None or leaf == "weight_workspace":
                continue
            values = entry.read().float()
            if not values.isfinite().all():
                problems.append(f"{entry.name} holds NaN or infinity")
            elif (values < 0).any() or (about.scale and (values == 0).any()):
                problems.append(f"{entry.name} holds scales that are not positive")
            elif about.scale and network.storage.name != "fp8-b128" and not _is_exact(values, network.storage):
                dtype = str(network.storage.scale_dtype).removeprefix("torch.")
                problems.append(f"{entry.name} is not exact in {dtype}, to which the runtime rounds it")
    return Checked(problems)


def _is_exact(values: Tensor, storage: Storage) -> bool:
    return torch.equal(values.to(storage.scale_dtype).float(), values)


def weights_are_the_models(network: Network, sources: Sources) -> Finding:
    """Each weight, dequantized, is the float model's but for rounding and smoothing, and no other order fits better."""
    if sources.float_model is None:
        return NotChecked(sources.why_no_float)
    if network.part in sources.replaced:
        return NotChecked(f"the run read {network.part} from another checkpoint: give --float PATH")
    model = open_float(sources.float_model, network.part)
    if model is None:
        return NotChecked(f"{sources.float_model} holds no safetensors file of {network.part}")
    problems, errors = [], []
    rows: dict[str, Tensor] = {}
    for linear, entries in network.sound():
        weight = model.read_weight(linear)
        if weight is None or tuple(weight.shape) != linear.shape:
            problems.append(f"{linear.diffusers}.weight of {linear.shape} is not in the float model")
            continue
        read = _readings(network, linear, entries)
        found = {each.fault: _distance(network, model, linear, each.weight, weight, rows) for each in read}
        problems += distance_problems(entries["weight"].name, found)
        errors.append(found[""])
    return Checked(problems, distance_note(errors))


def distance_problems(name: str, found: Mapping[str, float]) -> Iterator[str]:
    """What is wrong with a weight that, read rightly ("") and with each fault, is so far from the float model."""
    right, (fault, least) = found[""], min(found.items(), key=lambda item: item[1])
    if fault and least < right / 2:
        yield f"{name}: {fault} (read so, it is {least:.2g} from the float model, else {right:.2g})"
    elif not right <= FAR:
        yield f"{name} is {right:.2g} of its norm away from the float model"


def distance_note(errors: Sequence[float]) -> str:
    """How far weights are from the float model, if any were compared."""
    return f"{len(errors)} weights, at most {max(errors):.2g} of their norm away" if errors else ""


def _readings(network: Network, linear: Linear, entries: Mapping[str, Entry]) -> Iterator[Reading]:
    assert network.storage is not None
    return network.storage.decode({leaf: entry.read() for leaf, entry in entries.items()}, *sizes(linear))


def _distance(
    network: Network, model: FloatNetwork, linear: Linear, weight: Tensor, wanted: Tensor, rows: dict[str, Tensor]
) -> float:
    """How far a weight is from the float one smoothed as it is; `rows` keeps what v's carry for o, by attention."""
    if not isinstance(network.known, Wan):
        return _free_distance(weight, wanted, linear.carries)
    columns, attention = _multiplier(network, model, linear), linear.native.rpartition(".")[0]
    if columns is not None and columns.shape == wanted.shape[1:]:
        wanted = wanted / columns
    if linear.native.endswith((".v", ".v_img")):
        fitting = _fitting(weight, wanted)
        rows.setdefault(attention, fitting)
        wanted = wanted * fitting[:, None]
    elif linear.native.endswith("_attn.o"):
        known = rows.get(attention)  # of a v that is quantized itself; else the multipliers that fit
        wanted = wanted * _fitting(weight.t(), wanted.t()) if known is None else wanted / known
    return float((weight - wanted).norm() / wanted.norm().clamp(min=1e-30))


def _free_distance(weight: Tensor, wanted: Tensor, rows: bool) -> float:
    """How far a weight is from what is wanted, under the multipliers of columns that fit best, and of rows where they
    may carry one."""
    for _ in range(3 if rows else 1):
        wanted = wanted * _fitting(weight.t(), wanted.t())
        wanted = wanted * _fitting(weight, wanted)[:, None] if rows else wanted
    return float((weight - wanted).norm() / wanted.norm().clamp(min=1e-30))


def _fitting(weight: Tensor, wanted: Tensor) -> Tensor:
    """By what each row of `wanted` comes closest to that of `weight`."""
    return (weight * wanted).sum(1) / wanted.square().sum(1).clamp(min=1e-30)


def _multiplier(network: Network, model: FloatNetwork, linear: Linear) -> Tensor | None:
    """What the input of a linear is multiplied by, at run time or in the norm before it."""
    if (left := network.input_multiplier(linear)) is not None:
        return left
    prefix, group, leaf = linear.native.rsplit(".", 2)
    if (group, leaf) == ("cross_attn", "q"):
        norm = Expected(f"{prefix}.norm3.weight", f"{prefix}.norm2.weight", ())
        ours, theirs = network.find(norm), model.read(norm)
        if ours is not None and theirs is not None and ours.shape == theirs.shape:
            ratio = ours.read().float() / theirs
            return torch.where(theirs == 0, torch.ones_like(ratio), ratio)
    return None


def weights_are_the_judged_ones(network: Network, sources: Sources) -> Finding:
    """Each weight, dequantized, is the fake-quant weight of the run, bit for bit."""
    if sources.against is None:
        return NotChecked("no run is given: --against RUN")
    judged = sources.judged.get(network.part)
    if judged is None:
        return Checked([f"the run has no part {network.part}, only {', '.join(sources.judged)}"])
    problems, count = [], 0
    for linear, entries in network.sound():
        name, lost = entries["weight"].name, [part for part, _ in linear.parts if part not in judged]
        if lost:
            problems.append(f"{name}: the run judged no {', '.join(lost)}")
            continue
        wanted = [judged[part] for part, _ in linear.parts]
        rows = [rows for _, rows in linear.parts]
        readings = _readings(network, linear, entries)
        digests = ((each.fault, [tensor_digest(part) for part in torch.split(each.weight, rows)]) for each in readings)
        fault = next((fault for fault, found in digests if found == wanted), None)
        if fault is None:
            problems.append(f"{name} is not the weight that was judged")
        elif fault:
            problems.append(f"{name}: {fault}")
        else:
            count += len(wanted)
    return Checked(problems, f"{count} weights are the judged ones, bit for bit" if count else "")
