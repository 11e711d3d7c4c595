"""LoRAs merged into float weights, of a network or on the way to a file: weight + strength * alpha / rank * up @ down.

Every key of the file must find its parameter, its other half and a fitting shape, and headers alone tell; only then is
anything changed. How trainers name their keys is the tables below. Modules may be called as in either naming scheme;
where a layer is one there and several here, each gets its rows.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import prod, sqrt
from pathlib import Path

import torch
from pydantic import AliasChoices, AliasGenerator, BaseModel, ConfigDict, ValidationError
from torch import Tensor

from llmc.convert.names import Names, Place, Range
from llmc.convert.safetensors_file import LazyTensor, StoredTensor, make_rows, read_header
from llmc.errors import ExportError
from llmc.renames import Original

SHOWN = 8  # problems in one message
PREFIXES = ("base_model.model.", "model.diffusion_model.", "diffusion_model.", "transformer.")
FLAT = "lora_unet_"  # after it stands a module's name, with underscores for dots
FLAT_PREFIX = re.compile(r"^(lora_unet|lora_transformer|lycoris)_+")
PARTS = {
    "down": r"\.lora_(?:A|down)(?:\.\w+)?\.weight|\.lora_A|(?:\.lora|_lora|\.lora_linear_layer)\.down(?:\.weight)?",
    "up": r"\.lora_(?:B|up)(?:\.\w+)?\.weight|\.lora_B|(?:\.lora|_lora|\.lora_linear_layer)\.up(?:\.weight)?",
    "up_bias": r"\.lora_(?:B|up)(?:\.\w+)?\.bias",
    "alpha": r"\.alpha",
    "diff": r"\.diff",
    "diff_b": r"\.diff_b",
    "diff_m": r"\.diff_m",
}
KEY = re.compile(rf"(?P<module>.+?)(?:{'|'.join(f'(?P<{part}>{ending})' for part, ending in PARTS.items())})")
READ = "lora_A/lora_B, lora_down/lora_up or lora.down/lora.up, alpha, diff, diff_b and diff_m"
HALVES = {"down": "lora_A (or lora_down)", "up": "lora_B (or lora_up)"}
OTHER_KINDS = {"DoRA": r"dora_scale|magnitude", "LoHa": r"\bhada_", "LoKr": r"\blokr_"}
# what a part is added to; diff_m is LightX2V's, for the modulation that a block holds as a bare parameter
TARGETS = {
    "up": (".weight",),
    "up_bias": (".bias",),
    "diff": (".weight", ""),
    "diff_b": (".bias",),
    "diff_m": (".modulation",),
}

Keys = dict[str, str]  # part -> key in the file, for one module


Shapes = Mapping[str, tuple[int, ...]]
Meanings = Mapping[str, set[tuple[Place, ...]]]  # what a file may call a tensor -> what it may mean


@dataclass(frozen=True)
class Lora:
    """A file, how strongly it is added, and the alpha of its layers if the file itself says none."""

    path: Path
    strength: float = 1.0
    alpha: float | None = None


@dataclass(frozen=True)
class Delta:
    """What is added to some rows of one parameter: one tensor, or the product of up and down."""

    keys: tuple[str, ...]
    factors: tuple[StoredTensor, ...]
    scale: float
    rows: Range | None = None  # of the parameter; None: it is not added row by row, but reshaped as a whole
    of_change: Range | None = None  # the same rows of what is added

    @property
    def shape(self) -> tuple[int, ...]:
        return (*self.factors[0].shape[:1], *self.factors[-1].shape[1:])

    def at(self, place: Place, shape: tuple[int, ...], strength: float) -> Delta:
        """The same at a place of a parameter of that shape, as strong as asked for."""
        rows, of_change = place.rows or _all_rows(shape), place.of_change or _all_rows(self.shape)
        by_row = rows is not None and of_change is not None and rows[1] - rows[0] == of_change[1] - of_change[0]
        ranges = (rows, of_change) if by_row else (None, None)
        return replace(self, scale=strength * self.scale, rows=ranges[0], of_change=ranges[1])

    def add_to(self, total: Tensor, start: int) -> None:
        """Add it, in the type of `total`, which holds the rows of the parameter from `start` on."""
        if self.rows is None or self.of_change is None:
            first, *others = self.factors
            total += self.scale * _product(first.make(), others, total).reshape(total.shape)
            return
        low, high = max(self.rows[0], start), min(self.rows[1], start + len(total))
        if low < high:
            offset = self.of_change[0] - self.rows[0]
            first, *others = self.factors
            rows = total[low - start : high - start]
            change = _product(first.rows(low + offset, high + offset), others, total)
            rows += self.scale * change.reshape(rows.shape)


@dataclass(frozen=True)
class Merged:
    """A tensor with deltas added: summed in float32, whatever its type, and rounded once."""

    base: LazyTensor
    deltas: tuple[Delta, ...]

    @property
    def dtype(self) -> torch.dtype:
        return self.base.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.base.shape)

    @property
    def bases(self) -> tuple[LazyTensor, ...]:
        return (self.base,)

    def make(self) -> Tensor:
        return _sum(self.base.make(), self.deltas)

    def rows(self, start: int, stop: int) -> Tensor:
        if any(delta.rows is None for delta in self.deltas):
            return self.make()[start:stop]
        return _sum(make_rows(self.base, start, stop), self.deltas, start)


class PeftConfig(BaseModel):
    """What PEFT and diffusers write about a LoRA, whose files hold no alpha."""

    model_config = ConfigDict(
        alias_generator=AliasGenerator(validation_alias=lambda name: AliasChoices(name, f"transformer.{name}")),
        frozen=True,
    )
    lora_alpha: float | None = None
    alpha_pattern: Mapping[str, float] = {}
    use_rslora: bool = False

    def scale(self, module: str, rank: int) -> float:
        """alpha / rank; rank-stabilized LoRA (arXiv 2312.03732) divides by the root of the rank."""
        own = (alpha for name, alpha in self.alpha_pattern.items() if re.fullmatch(rf"(.*\.)?({name})", module))
        alpha = next(own, self.lora_alpha)
        return 1.0 if alpha is None else alpha / (sqrt(rank) if self.use_rslora else rank)


def merge_lora(module: torch.nn.Module, path: Path, strength: float, tables: Iterable[Original] = ()) -> int:
    """Add a LoRA to the weights of `module`, or refuse and change nothing; returns how many modules changed.

    Its keys may name modules as the network does, or as the right side of one of the `tables` does.
    """
    parameters = dict(module.named_parameters())
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    dtypes = {name: parameter.dtype for name, parameter in parameters.items()}
    plan = _plan(Lora(path, strength), shapes, dtypes, _meanings(shapes, map(Names, tables)))
    if absent := [name for name in plan if parameters[name].is_meta]:
        raise ExportError(
            f"{', '.join(absent[:SHOWN])} are on the meta device, without values; a LoRA is added to weights that are "
            "there; load the weights first"
        )
    with torch.no_grad():
        for name, deltas in plan.items():
            parameters[name].copy_(_sum(parameters[name], deltas))
    return len({name.rpartition(".")[0] for name in plan})


def with_loras(
    tensors: Mapping[str, LazyTensor], loras: Sequence[Lora], namings: Iterable[Names]
) -> dict[str, LazyTensor]:
    """`tensors` with all `loras` to be added when they are made; or refuse. Keys may be of either side of `namings`."""
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    dtypes = {name: tensor.dtype for name, tensor in tensors.items()}
    meanings = _meanings(shapes, namings) if loras else {}
    deltas: defaultdict[str, list[Delta]] = defaultdict(list)
    for lora in loras:
        for name, added in _plan(lora, shapes, dtypes, meanings).items():
            deltas[name] += added
    return {n: Merged(tensor, tuple(deltas[n])) if n in deltas else tensor for n, tensor in tensors.items()}


def _sum(tensor: Tensor, deltas: Iterable[Delta], start: int = 0) -> Tensor:
    """A parameter, or its rows from `start` on, with what is added to it."""
    total = tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32), copy=True)
    for delta in deltas:
        delta.add_to(total, start)
    return total.to(tensor.dtype)


def _product(first: Tensor, others: Sequence[StoredTensor], like: Tensor) -> Tensor:
    """What factors make, in the type of `like`; a convolution is a linear of its flattened patch."""
    first = first.to(like.device, like.dtype)
    for factor in others:
        first = first.flatten(1) @ factor.make().to(like.device, like.dtype).flatten(1)
    return first


def _all_rows(shape: tuple[int, ...]) -> Range | None:
    return (0, shape[0]) if shape else None


def lora_file(path: Path) -> Path:
    """The one file that `path` means."""
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path] if path.is_file() else []
    if len(files) == 1 and files[0].suffix == ".safetensors":
        return files[0]
    found = ", ".join(file.name for file in files[:SHOWN]) or ("none" if path.exists() else "no such path")
    raise ExportError(
        f"{path} is not one LoRA (found: {found}); a .safetensors file, or a folder with exactly one, can be merged; "
        "give the file itself, and save a .pt, .pth or .bin as .safetensors first"
    )


def _plan(lora: Lora, shapes: Shapes, dtypes: Mapping[str, torch.dtype], meanings: Meanings) -> dict[str, list[Delta]]:
    """Parameter -> what is added to it; whatever does not fit is refused at once."""
    file = lora_file(lora.path)
    tensors, metadata = read_header(file)
    modules, problems = _modules(file, tensors)
    config = _peft_config(file, metadata, lora.alpha)
    plan: defaultdict[str, list[Delta]] = defaultdict(list)
    changed_by: defaultdict[str, dict[Range | None, str]] = defaultdict(dict)
    for module, keys in modules.items():
        if broken := _broken(keys, tensors):
            problems.append(broken)
            continue
        for targets, delta in _deltas(module, keys, tensors, config):
            found = {meaning for alias in _spellings(module, targets) for meaning in meanings.get(alias, ())}
            if misfit := _misfit(delta, found, shapes, dtypes):
                problems.append(misfit)
                continue
            (places,) = found
            for place in places:
                if other := _already(changed_by[place.name], place, module):
                    problems.append(f"{module}: {other} is the same module")
                changed_by[place.name][place.rows] = module
                plan[place.name].append(delta.at(place, shapes[place.name], lora.strength))
    if problems:
        shown = [f"  {problem}" for problem in problems[:SHOWN]]
        more = [f"  and {len(problems) - SHOWN} more"] if len(problems) > SHOWN else []
        raise ExportError(
            "\n".join([f"{file} does not fit the network, which was not changed:", *shown, *more])
            + f"\nonly {READ} of its own modules can be merged; give a LoRA that was trained for this very model"
        )
    return plan


def _already(changed: Mapping[Range | None, str], place: Place, module: str) -> str | None:
    """Another module of the file that changes the same rows."""
    same = (other for rows, other in changed.items() if None in (rows, place.rows) or rows == place.rows)
    return next((other for other in same if other != module), None)


def _modules(file: Path, tensors: Mapping[str, StoredTensor]) -> tuple[dict[str, Keys], list[str]]:
    """Module as the file calls it -> its keys, and what is wrong with other keys."""
    modules: defaultdict[str, Keys] = defaultdict(dict)
    problems = []
    for kind, pattern in OTHER_KINDS.items():
        if keys := [key for key in tensors if re.search(pattern, key)]:
            raise ExportError(
                f"{file} is a {kind}: it holds {', '.join(keys[:3])}; only plain LoRAs ({READ}) can be merged; "
                "merge it with the tool that trained it, and quantize the merged model"
            )
    for key in tensors:
        if match := KEY.fullmatch(key):
            assert match.lastgroup is not None
            other = modules[match["module"]].setdefault(match.lastgroup, key)
            if other != key:
                problems.append(f"{key}: a file holds one LoRA, but {other} is there too")
        else:
            problems.append(f"{key}: not a key of a LoRA")
    if not modules:
        found = ", ".join(list(tensors)[:3]) or "nothing"
        raise ExportError(f"{file} is no LoRA: it holds {found}; only {READ} can be merged; check the path")
    return modules, problems


def _broken(keys: Keys, tensors: Mapping[str, StoredTensor]) -> str | None:
    """What is wrong with the keys of one module, whatever the network may be."""
    for part, key in keys.items():
        # a whole alpha is often stored as an integer
        if part != "alpha" and not tensors[key].dtype.is_floating_point:
            return f"{key}: stored as {tensors[key].dtype}, not as floats"
    if keys.keys() <= {"diff", "diff_b", "diff_m"}:
        return None
    if missing := {"down", "up"} - keys.keys():
        return f"{', '.join(keys.values())}: without {' and '.join(HALVES[half] for half in sorted(missing))}"
    down, up = tensors[keys["down"]].shape, tensors[keys["up"]].shape
    if len(down) < 2 or len(up) < 2 or down[0] == 0 or prod(up[1:]) != down[0]:
        return f"{keys['down']} {down}: shares no rank with {keys['up']} {up}"
    if "alpha" in keys and prod(tensors[keys["alpha"]].shape) != 1:
        return f"{keys['alpha']} {tensors[keys['alpha']].shape}: not one number"
    return None


def _deltas(
    module: str, keys: Keys, tensors: Mapping[str, StoredTensor], config: PeftConfig
) -> Iterator[tuple[tuple[str, ...], Delta]]:
    """What the keys of one module add, each with the names below the module that it may be added to."""
    scale = 1.0
    if "down" in keys:
        rank = tensors[keys["down"]].shape[0]
        scale = tensors[keys["alpha"]].make().item() / rank if "alpha" in keys else config.scale(module, rank)
    for part, targets in TARGETS.items():
        if part in keys:
            used = (keys["up"], keys["down"]) if part == "up" else (keys[part],)
            factors = tuple(tensors[key] for key in used)
            yield targets, Delta(used, factors, scale if part in ("up", "up_bias") else 1.0)


def _misfit(
    delta: Delta, found: set[tuple[Place, ...]], shapes: Shapes, dtypes: Mapping[str, torch.dtype]
) -> str | None:
    """Why a delta cannot be added to what was found for it."""
    keys = " and ".join(delta.keys)
    if not found:
        return f"{keys}: the network has no such parameter"
    if len(found) > 1:
        return f"{keys}: may mean {' or '.join(sorted(place.name for places in found for place in places))}"
    (places,) = found
    whole = places[-1].of_change
    if whole is not None and delta.shape[:1] != (whole[1],):
        return f"{keys}: {delta.shape} has not the {whole[1]} rows of {', '.join(place.name for place in places)}"
    for place in places:
        shape, dtype = shapes[place.name], dtypes[place.name]
        if not dtype.is_floating_point or dtype.itemsize == 1:
            return f"{keys}: {place.name} holds codes ({dtype}), not floats; merge LoRAs before quantizing"
        rows = shape if place.rows is None else (place.rows[1] - place.rows[0], *shape[1:])
        if not _fits((*_length(place.of_change, delta.shape[:1]), *delta.shape[1:]), rows):
            return f"{keys}: {delta.shape} cannot be added to {place.name} {shape}"
    return None


def _length(rows: Range | None, of_all: tuple[int, ...]) -> tuple[int, ...]:
    return of_all if rows is None else (rows[1] - rows[0],)


def _fits(shape: tuple[int, ...], target: tuple[int, ...]) -> bool:
    """Whether a tensor is the target, but for dimensions of one, or the target flattened to rows."""
    rows = (*target[:1], prod(target[1:]))
    long, *allowed = ([size for size in sizes if size != 1] for sizes in (shape, target, rows))
    return long in allowed


def _meanings(shapes: Shapes, namings: Iterable[Names]) -> Meanings:
    """Every tensor by its own name and by those of other schemes, dotted and flat."""
    meanings: defaultdict[str, set[tuple[Place, ...]]] = defaultdict(set)
    own = ((name, (Place(name),)) for name in shapes)
    for alias, places in chain(own, *(naming.aliases(shapes) for naming in namings)):
        owner, _, leaf = alias.rpartition(".")
        meanings[alias].add(places)
        meanings[f"{FLAT}{owner.replace('.', '_')}.{leaf}"].add(places)
    return meanings


def _spellings(module: str, targets: tuple[str, ...]) -> Iterator[str]:
    """The aliases that a module's parameters could have: with and without each prefix."""
    yield from (FLAT_PREFIX.sub(FLAT, module) + target for target in targets)
    for prefix in PREFIXES:
        if module.startswith(prefix):
            yield from _spellings(module.removeprefix(prefix), targets)


def _peft_config(file: Path, metadata: Mapping[str, str], alpha: float | None) -> PeftConfig:
    """diffusers writes it into the file's metadata, PEFT beside a file that it always calls the same."""
    beside = file.with_name("adapter_config.json")
    text = metadata.get("lora_adapter_metadata")
    if text is None and file.name == "adapter_model.safetensors" and beside.is_file():
        text = beside.read_text("utf-8")
    try:
        return PeftConfig(lora_alpha=alpha) if text is None else PeftConfig.model_validate_json(text)
    except ValidationError as error:
        raise ExportError(
            f"{file} comes with a configuration that cannot be read: {error}; lora_alpha must be a number; "
            "save the LoRA again"
        ) from error
