"""Rules of MindIE about files, the description, names, types and shapes.

Its loader passes over what it does not know, a wrong name or a wrong type string, without a word: that layer is float.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

from llmc.verify.mindie.network import ATTENTION, DESCRIPTION, FLOAT, MODEL_TYPE, SETTINGS, WEIGHTS, Described, Layer
from llmc.verify.mindie.types import TYPES, Sizes
from llmc.verify.names import Expected, Linear
from llmc.verify.storage import FLOATS, short
from llmc.verify.verdict import Checked, Finding, some

NO_QUANT = "NO_QUANT"  # the type of a model whose linears are all float
MOST = 0o640  # what the loader bears of a file's mode
LARGEST = 100 * 1024**3  # bytes of weights that it reads
WRITTEN_FOR: Mapping[str, tuple[str, ...]] = {  # what a manifest may say of the run
    "mindie_version": ("2.3", "3", "2026-07"),
    "soc": ("a2", "a3", "a5"),
    "dtype": ("bf16", "fp16"),
}
Problems = Iterator[str]


def files_are_found(network: Described) -> Finding:
    """One description and one file of weights, named by the model's type, that nobody else can read."""
    return Checked(list(_file_problems(network)), ", ".join(file.path.name for file in network.files))


def _file_problems(network: Described) -> Problems:
    if len(network.descriptions) != 1:
        yield f"there are {len(network.descriptions)} files {DESCRIPTION}_*.json; MindIE is given one"
    for file in network.descriptions:
        if re.search(r"_\d+$", file.stem):
            yield f"{file.name} ends in a number, which MindIE takes for the rank of a process: it then asks for more"
    kind = network.rows.get(MODEL_TYPE)
    if isinstance(kind, str):
        weights = f"{WEIGHTS}_{kind.lower()}.safetensors"
        names = [file.path.name for file in network.files]
        if weights not in names:
            yield f"{weights} is missing, which MindIE looks for with {MODEL_TYPE} {kind}"
        if others := [name for name in names if name != weights]:
            yield f"{some(others)} beside it is read by nobody: MindIE reads one file"
    for path in (*network.descriptions, *(file.path for file in network.files)):
        yield from _access_problems(path)


def _access_problems(path: Path) -> Problems:
    if path.is_symlink():
        yield f"{path.name} is a symbolic link, which MindIE refuses; put the file itself there"
        return
    mode = stat.S_IMODE(path.stat().st_mode)
    if mode & 0o777 & ~MOST:
        yield f"{path.name} has mode {mode:04o}; MindIE refuses more than {MOST:04o}"
    if path.stat().st_size > LARGEST:
        yield f"{path.name} has {path.stat().st_size / 1024**3:.0f} GiB; MindIE reads at most 100"


def description_fits(network: Described) -> Finding:
    """A row for each tensor and a tensor for each row, with a type that MindIE knows, one for all of a linear."""
    kinds = sorted({layer.kind for layer in network.layers})
    return Checked(list(_row_problems(network)), f"{len(network.layers)} linears in {', '.join(kinds) or 'no type'}")


def _row_problems(network: Described) -> Problems:
    rows = network.rows
    if not rows:
        yield "there is no description that is a JSON object"
        return
    kind = str(rows.get(MODEL_TYPE))
    only_attention = bool(network.attentions) and not network.layers
    if kind not in TYPES and not (only_attention and kind == NO_QUANT):
        yield f"{MODEL_TYPE} is {kind}; MindIE knows {', '.join(TYPES)}"
    tensors = {name: str(kind) for name, kind in rows.items() if name not in SETTINGS and not name.endswith(ATTENTION)}
    yield from (f"{name} has no row" for name in network.entries if name not in tensors)
    yield from (f"{name} has a row, and is no tensor of the file" for name in tensors if name not in network.entries)
    for name, kind in tensors.items():
        if kind != FLOAT and kind not in TYPES and not network.is_of_attention(name):
            yield f"{name} is called {kind}, which MindIE passes over: the linear would stay float"
    for layer in network.layers:
        yield from _layer_row_problems(network, layer)
    if not network.layers and not only_attention:
        yield "no weight is called quantized: the network would stay float"
    owners = {layer.prefix for layer in network.layers}
    for name, kind in tensors.items():
        prefix, _, leaf = name.rpartition(".")
        if kind in TYPES and leaf != "weight" and prefix not in owners:
            yield f"{name} is called {kind}, and no weight beside it is"


def _layer_row_problems(network: Described, layer: Layer) -> Problems:
    for name in (f"{layer.prefix}.bias", layer.multiplier):
        if network.rows.get(name, FLOAT) != FLOAT:
            yield f"{name} is called {network.rows[name]}; it is {FLOAT}"
    for name in (layer.module, f"{layer.module}.weight", f"{layer.module}.linear.weight"):
        if network.rows.get(name) == FLOAT:
            yield f"{name} is called {FLOAT}, so that MindIE leaves {layer.module} float"
    for leaf in ("weight_scale", "weight_offset", "weight_dual_scale", "input_scale", "input_offset", "deq_scale",
                 "quant_bias"):  # fmt: skip
        kind = network.rows.get(f"{layer.prefix}.{leaf}", layer.kind)
        if kind != layer.kind:
            yield f"{layer.prefix}.{leaf} is called {kind}, and its weight {layer.kind}"


def smoothing_is_whole(network: Described) -> Finding:
    """What multiplies an input lies in `div`, and then, and only then, the linear's own tensors lie in `linear`."""
    problems = list(_smoothing_problems(network))
    return Checked(problems, f"{sum(layer.smoothed for layer in network.layers)} of {len(network.layers)} smoothed")


def _smoothing_problems(network: Described) -> Problems:
    modules = {layer.module for layer in network.layers}
    for layer in network.layers:
        there = layer.multiplier in network.entries
        if layer.smoothed and not there:
            yield f"{layer.prefix} is there, and {layer.multiplier} is not: MindIE finds no weight"
        elif there and not layer.smoothed:
            yield f"{layer.multiplier} is there: MindIE then looks for {layer.module}.linear.weight"
        if there and not TYPES[layer.kind].smooths:
            yield f"{layer.multiplier} is ignored by {layer.kind}: its weight would be multiplied by nobody"
        leaves = ("weight", "weight_scale", "bias", "input_scale", "deq_scale")
        loose = [name for leaf in leaves if (name := f"{layer.module}.{leaf}") in network.entries]
        if layer.smoothed and loose:
            yield f"{some(loose)} beside {layer.prefix}: MindIE reads what lies in `linear`"
    for name in network.entries:
        module, found, _ = name.partition(".div.mul_scale")
        if found and module not in modules:
            yield f"{name} belongs to no quantized linear"


def tensors_are_right(network: Described) -> Finding:
    """Each tensor in the type and shape that its type of linear has."""
    problems = [problem for layer in network.layers for problem in _tensor_problems(network, layer)]
    owners = {layer.prefix for layer in network.layers}
    for name, entry in network.entries.items():
        if network.rows.get(name) == FLOAT and entry.dtype not in FLOATS and name.rpartition(".")[0] not in owners:
            problems.append(f"{name} is {short(entry.dtype)}, and called {FLOAT}")
    return Checked(problems, f"{len(network.entries)} tensors")


def _tensor_problems(network: Described, layer: Layer) -> Problems:
    of = network.sizes(layer)
    if of is None:
        yield f"{layer.prefix}.weight is missing or no matrix"
        return
    wanted, leaves = network.known_leaves(layer, of), network.leaves(layer, of)
    yield from (f"{layer.prefix}.{leaf} is missing: {layer.kind} has it" for leaf in leaves
                if network.leaf(layer, leaf) is None)  # fmt: skip
    for leaf, allowed in wanted.items():
        entry = network.leaf(layer, leaf)
        if entry is not None and not allowed.fits(entry):
            yield f"{entry.name} is {short(entry.dtype)} {list(entry.shape)}; it must be {_words(allowed.dtypes)} " \
                  f"{list(allowed.shapes[0])}{_run(network, leaf)}"  # fmt: skip
    for name in network.entries:
        prefix, _, leaf = name.rpartition(".")
        if prefix == layer.prefix and leaf not in wanted:
            yield f"{name} is read by nobody: {layer.kind} has no {leaf}"
    multiplier = network.entries.get(layer.multiplier)
    if multiplier is not None and (multiplier.dtype not in FLOATS or multiplier.shape != (of.k,)):
        yield f"{multiplier.name} is {short(multiplier.dtype)} {list(multiplier.shape)}; it is float {[of.k]}"


def _words(dtypes: tuple[object, ...]) -> str:
    return " or ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


def _run(network: Described, leaf: str) -> str:
    return f" in a run in {short(network.run_dtype)}" if leaf == "deq_scale" else ""


def runtime_takes_them(network: Described) -> Finding:
    """The generation and the chip that it was written for load these types, and their kernels take these sizes."""
    said = {key: network.about[key] for key in WRITTEN_FOR if key in network.about}
    problems = [f"the manifest says {key} {value}; there is {', '.join(WRITTEN_FOR[key])}"
                for key, value in said.items() if str(value) not in WRITTEN_FOR[key]]  # fmt: skip
    problems += [problem for layer in network.layers if (of := network.sizes(layer)) is not None
                 for problem in _kernel_problems(network, layer, of)]  # fmt: skip
    says = [f"{key} {value}" for key, value in said.items()]
    return Checked(problems, ", ".join(says) or "nobody says which MindIE it is for")


def _kernel_problems(network: Described, layer: Layer, of: Sizes) -> Problems:
    about, generation = TYPES[layer.kind], network.generation
    if about.a5_only and network.about.get("soc", "a5") != "a5":
        yield f"{layer.module} is {layer.kind}, which only an a5 computes; it was written for {network.about['soc']}"
    if about.since_3 and generation == "2.3":
        yield f"{layer.module} is {layer.kind}, which MindIE 2.3 does not know"
    bias = network.leaf(layer, "bias")
    known = network.by_name.get(f"{layer.module}.bias")
    has_bias = known is not None if network.by_name else bias is not None
    if not has_bias and generation in about.needs_bias:
        yield f"{layer.module} has no bias, without which MindIE fails on {layer.kind}"
    if has_bias and bias is None:
        yield f"{layer.prefix}.bias is missing: MindIE does not take the float model's"
    if has_bias and not about.takes_bias:
        yield f"{layer.module} has a bias, and {layer.kind} leaves it out of the sum"
    multiple = (about.in_features or {}).get(generation or "", 1)
    if of.k % multiple:
        yield f"{layer.module} has {of.k} inputs; {layer.kind} takes multiples of {multiple}"
    if of.n % about.out_features or of.n == 1:
        yield f"{layer.module} has {of.n} outputs; {layer.kind} takes multiples of {about.out_features}, and not 1"


def names_are_complete(network: Described) -> Finding:
    """Every tensor of the float model is there under the name of MindIE's network, and nothing else is."""
    known = network.by_name
    owners = {layer.prefix: layer.module for layer in network.layers}
    owners |= {f"{layer.module}.div": layer.module for layer in network.layers}
    there: set[str] = set()
    foreign: dict[str, str] = {}  # what nobody reads -> the name by which to look for what it is
    for name in network.entries:
        prefix, _, leaf = name.rpartition(".")
        module = owners.get(prefix)
        there.add(name if module is None else f"{module}.{leaf}")
        if module is not None and f"{module}.weight" not in known:
            foreign[module] = f"{module}.weight"
        elif module is None and name not in known and not network.is_of_attention(name):
            foreign[name] = name
    problems = [f"{name} is missing" for name in known if name not in there]
    problems += [_said_of(known, name, looked_for) for name, looked_for in foreign.items()]
    return Checked(problems, f"{len(known)} tensors of the float model")


def _said_of(known: Mapping[str, Expected], name: str, looked_for: str) -> str:
    for right, each in known.items():
        if looked_for in each.sources:
            module = right.removesuffix(".weight") if name != looked_for else right
            if isinstance(each, Linear) and len(each.pieces) > 1:
                return f"{name} was not fused into {module}, as MindIE's network has it"
            return f"{name} is {module} in MindIE's network, and read by nobody under this name"
    return f"{name} is in no network of MindIE's, and read by nobody"
