"""Rules of LightX2V about names, types and shapes of tensors."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from llmc.verify.file_rules import shape_problems
from llmc.verify.lightx2v.network import NATIVE, WanNetwork
from llmc.verify.lightx2v.storages import KERNELS, SCALAR, Storage
from llmc.verify.names import Linear
from llmc.verify.storage import FLOATS, short
from llmc.verify.verdict import Checked, Finding, NotChecked, some

Problems = Iterator[str]
UNKNOWN_SCHEME = NotChecked("the scheme is not known", "lightx2v_<scheme>.json, which names it")


def one_naming(network: WanNetwork) -> Finding:
    """All names are of the scheme that config.json has."""
    own, other = ("LightX2V's", "diffusers'") if network.naming == NATIVE else ("diffusers'", "LightX2V's")
    problems = [f"{name} is {other} name; this folder calls it {right}" for name, right in network.foreign.items()]
    return Checked(problems, f"{own} names")


def names_are_complete(network: WanNetwork) -> Finding:
    """No weight or bias is missing, and nothing is there that nobody reads."""
    foreign = network.foreign
    wanted = {each.tensor for each in network.everything}
    known = set(wanted)
    for linear in network.linears:
        known |= {f"{linear.name}.{leaf}" for leaf in network.leaves(linear)}
    known |= {f"{norm}.{leaf}" for norm in network.affine_norms for leaf in ("weight", "bias")}
    there = network.entries.keys()
    problems = [f"{name} is missing" for name in sorted(wanted - there - set(foreign.values()))]
    problems += [f"{name} is read by nobody" for name in sorted(there - known - foreign.keys())]
    return Checked(problems, f"{len(network.entries)} tensors")


def types_are_right(network: WanNetwork) -> Finding:
    """Each tensor has the type that the scheme stores, and biases the one that lazy loading hands to kernels."""
    return Checked([*_float_type_problems(network), *_code_type_problems(network)])


def _float_type_problems(network: WanNetwork) -> Problems:
    lazy = network.naming == NATIVE and any(file.path.name == "non_block.safetensors" for file in network.files)
    biases = {f"{linear.name}.bias" for linear in network.linears}
    floats = [each.tensor for each in network.float_tensors]
    for name in [*floats, *(f"{norm}.{leaf}" for norm in network.affine_norms for leaf in ("weight", "bias"))]:
        entry = network.entries.get(name)
        if entry is not None and entry.dtype not in FLOATS:
            yield f"{name} is {short(entry.dtype)}; it stays float"
        elif entry is not None and lazy and name in biases and entry.dtype != torch.bfloat16:
            yield f"{name} is {short(entry.dtype)}; lazy loading hands it to a kernel that takes bfloat16"


def _code_type_problems(network: WanNetwork) -> Problems:
    storage = network.storage
    for linear in network.linears if storage is not None else ():
        assert storage is not None
        weight = network.find(linear)
        if weight is not None and weight.dtype != storage.dtype:
            yield f"{weight.name} is {short(weight.dtype)}; {storage.name} stores {short(storage.dtype)}"
        for leaf, allowed in network.leaves(linear).items():
            entry = network.entries.get(f"{linear.name}.{leaf}")
            if entry is not None and entry.dtype not in allowed.dtypes:
                types = " or ".join(map(short, allowed.dtypes))
                yield f"{entry.name} is {short(entry.dtype)}; {storage.name} stores {types}"


def shapes_are_right(network: WanNetwork) -> Finding:
    """Each tensor has the shape that the network gives it; a weight is (out, in)."""
    return Checked([*shape_problems(network), *_norm_shape_problems(network), *_code_shape_problems(network)])


def _norm_shape_problems(network: WanNetwork) -> Problems:
    widths = {linear.inputs for linear in network.linears if network.multiplier(linear) is not None}
    for name in (f"{norm}.{leaf}" for norm in network.affine_norms for leaf in ("weight", "bias")):
        entry = network.entries.get(name)
        if entry is not None and entry.shape not in {(width,) for width in widths}:
            yield f"{name} is {list(entry.shape)}; there is one number for each input"


def _code_shape_problems(network: WanNetwork) -> Problems:
    storage = network.storage
    for linear in network.linears if storage is not None else ():
        assert storage is not None
        entry, (n, k) = network.find(linear), linear.shape
        if entry is None or entry.dtype != storage.dtype or entry.shape == storage.shape(n, k):
            continue
        transposed = ": it is transposed" if entry.shape == storage.shape(k, n) else ""
        why = f"{storage.name} stores {n} outputs by {k} inputs as {list(storage.shape(n, k))}"
        yield f"{entry.name} is {list(entry.shape)}{transposed}; {why}"


def scales_are_there(network: WanNetwork) -> Finding:
    """Every quantized linear has its scales, in their shape: LightX2V loads without one, and without a word."""
    if network.storage is None:
        return UNKNOWN_SCHEME
    return Checked(list(_scale_problems(network, network.storage)))


def _scale_problems(network: WanNetwork, storage: Storage) -> Problems:
    foreign = set(network.foreign.values())
    for linear in network.linears:
        for leaf, allowed in network.leaves(linear).items():
            name = f"{linear.name}.{leaf}"
            entry = network.entries.get(name)
            if entry is None and name not in foreign:
                yield f"{name} is missing"
            elif entry is not None and entry.shape not in allowed.shapes:
                shapes = "a scalar" if allowed.shapes == SCALAR else str(list(allowed.shapes[0]))
                yield f"{name} is {list(entry.shape)}; {storage.name} has {shapes} there"


def smoothing_is_declared(network: WanNetwork) -> Finding:
    """`quant_method: advanced_ptq` is there where, and only where, norms are smoothed at run time, scale and shift
    alike."""
    wanted = [f"{norm}.{leaf}" for norm in network.affine_norms for leaf in ("weight", "bias")]
    found = [name for name in wanted if name in network.entries]
    problems = []
    if found and len(found) < len(wanted):
        missing = [name for name in wanted if name not in network.entries]
        problems.append(f"{some(missing)} missing: a smoothed network has affine_norm1 and 3 in every block")
    if network.label and network.runtime is not None:  # of the folders of two experts LightX2V reads no config.json
        place, says = "the runtime JSON", network.runtime.get("quant_method")
    else:  # there is no runtime JSON before the names are LightX2V's
        place, says = "config.json", {**(network.runtime or {}), **(network.config or {})}.get("quant_method")
    if found and says != "advanced_ptq":
        problems.append(f"there are affine_norm tensors, and {place} has no `quant_method: advanced_ptq`: "
                        "LightX2V ignores them without it, and computes something else")  # fmt: skip
    if not found and says is not None:
        problems.append(f"quant_method is {says}, and there are no affine_norm tensors, which LightX2V then looks for")
    problems += _uneven_norms(network)
    return Checked(problems, "smoothed at run time" if found else "nothing is smoothed at run time")


def _uneven_norms(network: WanNetwork) -> Problems:
    """A multiplier stands on a norm's scale and on its shift, and is the same on both."""
    for norm in network.affine_norms:
        weight, bias = (network.entries.get(f"{norm}.{leaf}") for leaf in ("weight", "bias"))
        if weight is not None and bias is not None and not torch.equal(weight.read().float(), bias.read().float()):
            yield f"{norm}.weight and bias differ: both hold what the input is multiplied by"


def sizes_fit_kernels(network: WanNetwork) -> Finding:
    """Outputs and inputs are multiples of the kernels' tiles, and tensors lie aligned in their files."""
    storage = network.storage
    if storage is None:
        return UNKNOWN_SCHEME
    kernel = KERNELS.get(network.scheme or "")
    each_n, each_k = (kernel.multiples if kernel is not None else None) or storage.multiples
    wrong = {f"{each.name} has {each.outputs} outputs and {each.inputs} inputs"
             for each in network.linears if _does_not_fit(each, each_n, each_k)}  # fmt: skip
    problems = [f"{some(sorted(wrong))}; the kernels take multiples of {each_n} and {each_k}"] if wrong else []
    loose = [entry.name for entry in network.entries.values() if entry.start % entry.dtype.itemsize]
    problems += [f"{some(loose)} not aligned in the file"] if loose else []
    return Checked(problems)


def _does_not_fit(linear: Linear, outputs: int, inputs: int) -> bool:
    return bool(linear.outputs % outputs or linear.inputs % inputs)


def scales_are_good(network: WanNetwork) -> Finding:
    """Every scale is finite, positive, and exact in the type to which the loader casts it."""
    if network.storage is None:
        return UNKNOWN_SCHEME
    problems = [problem for linear, entries in network.sound()
                for leaf, about in network.leaves(linear).items() if leaf != "weight_workspace"
                for problem in _scale_value_problems(network.storage, entries[leaf].name, entries[leaf].read(),
                                                     about.scale)]  # fmt: skip
    return Checked(problems)


def _scale_value_problems(storage: Storage, name: str, stored: torch.Tensor, is_scale: bool) -> Problems:
    values = stored.float()
    if not values.isfinite().all():
        yield f"{name} holds NaN or infinity"
    elif (values < 0).any() or (is_scale and (values == 0).any()):
        yield f"{name} holds scales that are not positive"
    elif is_scale and storage.name != "fp8-b128" and not torch.equal(values.to(storage.scale_dtype).float(), values):
        yield f"{name} is not exact in {short(storage.scale_dtype)}, to which the runtime rounds it"
