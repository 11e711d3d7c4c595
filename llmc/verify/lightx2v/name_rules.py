"""Rules of LightX2V about names, types and shapes of tensors, told from headers and config.json."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from llmc.verify.network import Network, sizes
from llmc.verify.storage import FLOATS, KERNEL_MULTIPLES, SCALAR, Storage
from llmc.verify.verdict import Checked, Finding, NotChecked, some
from llmc.verify.wan import Expected, Naming

Problems = Iterator[str]
WHOSE = {"native": "LightX2V's", "diffusers": "diffusers'"}


def one_naming(network: Network) -> Finding:
    """All names are of the scheme that config.json has."""
    naming = network.known.naming
    return Checked([f"{name} is {WHOSE[other]} name; this folder calls it {right}"
                    for name, (other, right) in _foreign(network).items()], f"{WHOSE[naming]} names")  # fmt: skip


def _foreign(network: Network) -> dict[str, tuple[Naming, str]]:
    """Tensors under a name of the other scheme, and what they should be called."""
    own: Naming = network.known.naming
    other: Naming = "diffusers" if own == "native" else "native"
    names = {each.name(other): each.name(own) for each in _all_tensors(network)}
    return {name: (other, names[name]) for name in network.entries if name in names and names[name] != name
            and name not in names.values()}  # fmt: skip


def _all_tensors(network: Network) -> Iterator[Expected]:
    """Everything that may be there, under whatever name."""
    known = network.known
    yield from known.float_tensors()
    yield from known.optional()
    yield from known.multipliers()
    for linear in known.linears():
        leaves = network.storage.leaves(*sizes(linear)) if network.storage else ("weight_scale",)
        for leaf in ("weight", *leaves):
            yield Expected(f"{linear.native}.{leaf}", f"{linear.diffusers}.{leaf}", ())


def names_are_complete(network: Network) -> Finding:
    """No weight or bias is missing, and nothing is there that nobody reads."""
    own = network.known.naming
    foreign = _foreign(network)
    renamed = {right for _, right in foreign.values()}
    wanted = [each.name(own) for each in network.float_tensors()]
    wanted += [f"{linear.name(own)}.weight" for linear in network.linears()]
    missing = [name for name in wanted if name not in network.entries and name not in renamed]
    known = {each.name(own) for each in _all_tensors(network)}
    extra = [name for name in network.entries if name not in known and name not in foreign]
    problems = [f"{name} is missing" for name in missing]
    problems += [f"{name} is read by nobody" for name in extra]
    return Checked(problems, f"{len(network.entries)} tensors")


def types_are_right(network: Network) -> Finding:
    """Each tensor has the type that the scheme stores, and biases the one that lazy loading hands to kernels."""
    return Checked(list(_type_problems(network)))


def _type_problems(network: Network) -> Problems:
    own, storage = network.known.naming, network.storage
    lazy = any(file.path.name == "non_block.safetensors" for file in network.files)
    biases = {f"{linear.name(own)}.bias" for linear in network.linears()}
    for each in (*network.float_tensors(), *network.known.optional(), *network.known.multipliers()):
        entry = network.find(each)
        if entry is None:
            continue
        if entry.dtype not in FLOATS:
            yield f"{entry.name} is {_short(entry.dtype)}; it stays float"
        elif lazy and own == "native" and entry.name in biases and entry.dtype != torch.bfloat16:
            yield f"{entry.name} is {_short(entry.dtype)}; lazy loading hands it to a kernel that takes bfloat16"
    for linear in network.linears() if storage is not None else ():
        assert storage is not None
        weight = network.find(linear, "weight")
        if weight is not None and weight.dtype != storage.dtype:
            yield f"{weight.name} is {_short(weight.dtype)}; {storage.name} stores {_short(storage.dtype)}"
        for leaf, allowed in storage.leaves(*sizes(linear)).items():
            entry = network.find(linear, leaf)
            if entry is not None and entry.dtype not in allowed.dtypes:
                types = " or ".join(map(_short, allowed.dtypes))
                yield f"{entry.name} is {_short(entry.dtype)}; {storage.name} stores {types}"


def shapes_are_right(network: Network) -> Finding:
    """Each tensor has the shape that config.json gives it; a weight is (out, in)."""
    return Checked([*float_shape_problems(network), *_code_shape_problems(network)])


def float_shape_problems(network: Network) -> Problems:
    """Of every tensor that stays float."""
    bound: dict[str, int] = {}  # sizes that config.json does not say: what the first tensor has holds for all
    for each in (*network.float_tensors(), *network.known.optional(), *network.known.multipliers()):
        entry = network.find(each)
        if entry is None:
            continue
        if len(entry.shape) == len(each.shape):
            for size, found in zip(each.shape, entry.shape, strict=True):
                if isinstance(size, str):
                    bound.setdefault(size, found)
        wanted = tuple(bound.get(size, 0) if isinstance(size, str) else size for size in each.shape)
        if entry.shape != wanted:
            yield f"{entry.name} is {list(entry.shape)}; config.json makes it {list(wanted)}"


def _code_shape_problems(network: Network) -> Problems:
    for linear in network.linears() if network.storage is not None else ():
        assert network.storage is not None
        entry, (n, k) = network.find(linear, "weight"), sizes(linear)
        if entry is None or entry.dtype != network.storage.dtype or entry.shape == network.storage.shape(n, k):
            continue
        why = f"; {network.storage.name} stores {n} outputs by {k} inputs as {list(network.storage.shape(n, k))}"
        transposed = entry.shape == network.storage.shape(k, n)
        yield f"{entry.name} is {list(entry.shape)}{': it is transposed' if transposed else ''}{why}"


def scales_are_there(network: Network) -> Finding:
    """Every quantized linear has its scales, in their shape: LightX2V loads without one, and without a word."""
    if network.storage is None:
        return NotChecked("the scheme is not known")
    return Checked(list(_scale_problems(network, network.storage)))


def _scale_problems(network: Network, storage: Storage) -> Problems:
    own = network.known.naming
    foreign = {right for _, right in _foreign(network).values()}
    for linear in network.linears():
        for leaf, allowed in storage.leaves(*sizes(linear)).items():
            entry, name = network.find(linear, leaf), f"{linear.name(own)}.{leaf}"
            if entry is None and name not in foreign:
                yield f"{name} is missing"
            elif entry is not None and entry.shape not in allowed.shapes:
                shapes = "a scalar" if allowed.shapes == SCALAR else str(list(allowed.shapes[0]))
                yield f"{name} is {list(entry.shape)}; {storage.name} has {shapes} there"


def smoothing_is_declared(network: Network) -> Finding:
    """`quant_method: advanced_ptq` is there where, and only where, norms are smoothed at run time."""
    own = network.known.naming
    wanted = [each.name(own) for each in network.known.multipliers()]
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
    return Checked(problems, "smoothed at run time" if found else "nothing is smoothed at run time")


def sizes_fit_kernels(network: Network) -> Finding:
    """Outputs and inputs are multiples of the kernels' tiles, and tensors lie aligned in their files."""
    storage = network.storage
    if storage is None:
        return NotChecked("the scheme is not known")
    kernel = (network.runtime or {}).get("dit_quant_scheme", network.scheme)
    each_n, each_k = KERNEL_MULTIPLES.get(str(kernel), storage.multiples)
    wrong = {f"{linear.name(network.known.naming)} has {n} outputs and {k} inputs"
             for linear in network.linears() for n, k in [sizes(linear)] if n % each_n or k % each_k}  # fmt: skip
    problems = [f"{some(sorted(wrong))}; the kernels take multiples of {each_n} and {each_k}"] if wrong else []
    loose = [entry.name for entry in network.entries.values() if entry.start % entry.dtype.itemsize]
    problems += [f"{some(loose)} not aligned in the file"] if loose else []
    return Checked(problems)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
