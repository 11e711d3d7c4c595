"""Rules about values: against the float model, and against every tensor that was judged."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from llmc.verify.files import Entry, tensor_digest
from llmc.verify.judged import JudgedPart
from llmc.verify.names import Linear, divided
from llmc.verify.network import Held, Network
from llmc.verify.sources import FloatNetwork
from llmc.verify.verdict import Checked, Finding, NotChecked, some

FAR = 0.5  # of a weight's norm: more than any rounding costs, less than any wrong order of elements does (1.4)
NONE = {"multiplier": 1.0, "act_zero": 0.0, "steps_zero": 0.0}  # values that are as good as none, by their last name


def weights_are_the_models(network: Network) -> Finding:
    """Each weight, dequantized, is the float model's but for rounding and smoothing, and no other order fits better."""
    model = network.sources.network(network.part)
    if isinstance(model, NotChecked):
        return model
    problems, errors = [], []
    for linear, entries in network.sound():
        weight = _float_weight(model, linear)
        if weight is None or tuple(weight.shape) != linear.shape:
            problems.append(f"{some(linear.sources)} of {linear.shape} is not in the float model")
            continue
        if (entry := network.multiplier(linear)) is not None and entry.shape == (linear.inputs,):
            weight, columns = weight / entry.read().float(), False
        else:
            columns = linear.smoothed and network.folds
        rows = linear.absorbs and network.folds
        read = network.float_readings(linear, entries)
        found: dict[str, float] = {}
        for each in read:
            found.setdefault(each.fault, _distance(each.weight, weight, columns, rows))
        problems += distance_problems(entries["weight"].name, found)
        errors.append(found[""])
    return Checked(problems, f"{len(errors)} weights, at most {max(errors):.2g} of their norm away" if errors else "")


def distance_problems(name: str, found: Mapping[str, float]) -> Iterator[str]:
    """What is wrong with a weight that, read rightly ("") and with each fault, is so far from the float model."""
    right, (fault, least) = found[""], min(found.items(), key=lambda item: item[1])
    if fault and least < right / 2:
        yield f"{name}: {fault} (read so, it is {least:.2g} from the float model, else {right:.2g})"
    elif not right <= FAR:
        yield f"{name} is {right:.2g} of its norm away from the float model"


def _float_weight(model: FloatNetwork, linear: Linear) -> Tensor | None:
    """The float weight of a linear: of one that is made of several, those below each other."""
    parts = [model.read(name) for name in linear.sources]
    there = [part for part in parts if part is not None and part.shape[1:] == linear.shape[1:] and part.dim()]
    return torch.cat(there) if len(there) == len(parts) else None


def _distance(weight: Tensor, wanted: Tensor, columns: bool, rows: bool) -> float:
    """How far apart, with the multipliers of columns and rows that fit best, where some may have been folded."""
    for _ in range(3 if rows and columns else 1):
        wanted = wanted * _fitting(weight.t(), wanted.t()) if columns else wanted
        wanted = wanted * _fitting(weight, wanted)[:, None] if rows else wanted
    return float((weight - wanted).norm() / wanted.norm().clamp(min=1e-30))


def _fitting(weight: Tensor, wanted: Tensor) -> Tensor:
    """By what each row of `wanted` comes closest to that of `weight`."""
    return (weight * wanted).sum(1) / wanted.square().sum(1).clamp(min=1e-30)


def floats_are_the_models(network: Network) -> Finding:
    """What stays float is the float model's to the bit, but for what may have absorbed a smoothing."""
    model = network.sources.network(network.part)
    if isinstance(model, NotChecked):
        return model
    problems, smoothed, count = [], [], 0
    for name, place, value in _floats(network):
        wanted = model.read(name)
        if wanted is None or wanted.numel() != value.numel():
            problems.append(f"{place} is {list(value.shape)}, and the float model has no such {name}")
        elif torch.equal(value.float(), wanted.to(value.dtype).float().reshape(value.shape)):
            count += 1
        elif network.folds and network.may_be_smoothed(name.rpartition(".")[0]):
            smoothed.append(name)
        else:
            problems.append(f"{place} is not the float model's {name}")
    notes = [f"{count} tensors are the float model's"]
    notes += [f"{len(smoothed)} may have absorbed a smoothing"] if smoothed else []
    return Checked(problems, ", ".join(notes))


def _floats(network: Network) -> Held:
    """Everything that is stored in float, by its name in the float network."""
    for each in network.everything:
        entry = network.find(each)
        if entry is None or (isinstance(each, Linear) and network.quantized(each)) or entry.shape != each.shape:
            continue
        leaf = ".weight" if isinstance(each, Linear) else ""
        for name, value in divided(each, entry.read()):
            yield f"{name}{leaf}", entry.name, value


def held(network: Network) -> Held:
    """Every tensor that the export has of what was judged, but rounded weights, under the names of the judgement."""
    yield from _floats(network)
    for linear, entries in network.sound():
        left = dict(network.grids(linear, entries))
        if (multiplier := network.multiplier(linear)) is not None:
            left["multiplier"] = multiplier.read()
        for leaf, value in left.items():
            yield from ((f"{module}.{leaf}", f"{linear.name}'s {leaf}", value) for module in linear.modules)
    yield from network.attention_tensors()


def tensors_are_the_judged_ones(network: Network) -> Finding:
    """Every tensor beside the rounded weights is what was judged, to the bit, and none that was judged is left out."""
    judged = network.sources.judged(network.part)
    if not isinstance(judged, JudgedPart):
        return judged if isinstance(judged, NotChecked) else Checked([judged])
    problems, proven = [], set()
    for name, place, value in held(network):
        nothing = NONE.get(name.rpartition(".")[2])
        if name not in judged.tensors and nothing is not None and bool((value == nothing).all()):
            continue
        proven.add(name)
        if name not in judged.tensors:
            problems.append(f"{place}: the run judged no {name}")
        elif not judged.is_judged(name, value, network.folds):
            problems.append(f"{place} is not the {name} that was judged")
    lost = sorted(judged.tensors.keys() - proven)
    problems += [f"{some(lost)} was judged, and is not in the export"] if lost else []
    return Checked(problems, f"{len(proven)} tensors are the judged ones, bit for bit" if proven else "")


def weights_are_the_judged_ones(network: Network) -> Finding:
    """Each weight, dequantized, is what was judged, bit for bit; and whatever was judged quantized is stored so."""
    run, part = network.sources.run, network.part
    if run is None or part not in run.parts:
        found = network.sources.judged(part)
        return found if isinstance(found, NotChecked) else Checked([str(found)])
    judged = run.parts[part].weights
    problems, stored, untold = [], set[str](), 0
    for linear, entries in network.sound():
        stored |= set(linear.modules)
        if foreign := [module for module in linear.modules if module not in judged]:
            problems.append(f"{entries['weight'].name}: the run judged no {some(foreign)}")
        elif not network.tells(linear, entries):
            untold += len(linear.modules)
        else:
            problems += _weight_problems(network, linear, entries, judged)
    lost = sorted(judged.keys() - stored)
    problems += [f"{name} was judged quantized, and is not stored so" for name in lost]
    notes = [f"{len(stored) - untold} weights are the judged ones, bit for bit"] if len(stored) > untold else []
    notes += [f"{untold} weights keep too little of their scale to tell"] if untold else []
    return Checked(problems, "" if problems else "; ".join(notes))


def _weight_problems(
    network: Network, linear: Linear, entries: Mapping[str, Entry], judged: Mapping[str, str]
) -> Iterator[str]:
    name, rows = entries["weight"].name, [piece.rows for piece in linear.pieces]
    wanted = [judged[module] for module in linear.modules]
    found = [(each.fault, _digests(each.weight, rows)) for each in network.readings(linear, entries)]
    fault = next((fault for fault, digests in found if digests == wanted), None)
    if fault is None:
        right = found[0][1]
        wrong = [module for module, one, other in zip(linear.modules, right, wanted, strict=True) if one != other]
        of = f" of {some(wrong)}" if len(linear.modules) > 1 else ""
        yield f"{name} is not the weight{of} that was judged"
    elif fault:
        yield f"{name}: {fault}"


def _digests(weight: Tensor, rows: Sequence[int]) -> list[str]:
    return [tensor_digest(part) for part in torch.split(weight, list(rows))]
