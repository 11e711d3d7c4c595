"""A LoRA as its file holds it: how trainers name their keys, and what the keys of each module add.

Only headers are read, and each alpha.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod, sqrt
from pathlib import Path

from pydantic import (
    AliasChoices,
    AliasGenerator,
    BaseModel,
    ConfigDict,
    FiniteFloat,
    ValidationError,
    field_validator,
)

from llmc.convert.checkpoint import checkpoint_files
from llmc.convert.deltas import Delta
from llmc.convert.safetensors_file import StoredTensor, read_tensors
from llmc.errors import ExportError
from llmc.files.json_text import NotJson, parse_object, read_object_if_there
from llmc.files.words import shown

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
REPEATED, REPEATED_GROUP = re.compile(r"[*+{]"), re.compile(r"\)[*+{]")
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


@dataclass(frozen=True)
class Addition:
    """What is added to one parameter, and every name that the parameter may have."""

    aliases: tuple[str, ...]
    delta: Delta


@dataclass(frozen=True)
class LoraModule:
    """What the keys of one module add, or why they cannot, whatever the network may be."""

    name: str  # as the file calls it
    additions: tuple[Addition, ...] = ()
    problem: str | None = None


@dataclass(frozen=True)
class LoraFile:
    """Everything that a file adds, and what is wrong with keys of no module."""

    path: Path
    modules: Sequence[LoraModule]
    problems: Sequence[str]


class PeftConfig(BaseModel):
    """What PEFT and diffusers write about a LoRA, whose files hold no alpha."""

    model_config = ConfigDict(
        alias_generator=AliasGenerator(validation_alias=lambda name: AliasChoices(name, f"transformer.{name}")),
        frozen=True,
    )
    lora_alpha: FiniteFloat | None = None
    alpha_pattern: Mapping[str, FiniteFloat] = {}
    use_rslora: bool = False

    @field_validator("alpha_pattern")
    @classmethod
    def _can_be_matched(cls, patterns: Mapping[str, float]) -> Mapping[str, float]:
        for pattern in patterns:
            # others could be tried on a name without end
            if len(REPEATED.findall(pattern)) > 2 or REPEATED_GROUP.search(pattern):
                raise ValueError(f"alpha_pattern {shown(pattern)} repeats more than a module's name can")
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"alpha_pattern {shown(pattern)} is no pattern: {error}") from error
        return patterns

    def scale(self, module: str, rank: int) -> float:
        """alpha / rank; rank-stabilized LoRA (arXiv 2312.03732) divides by the root of the rank."""
        own = (alpha for name, alpha in self.alpha_pattern.items() if re.fullmatch(rf"(.*\.)?({name})", module))
        alpha = next(own, self.lora_alpha)
        return 1.0 if alpha is None else alpha / (sqrt(rank) if self.use_rslora else rank)


def read_lora(path: Path, alpha: float | None = None) -> LoraFile:
    """The LoRA that `path` means; `alpha` is that of its layers if the file says none itself."""
    files = _files_of(path)
    file = files[0] if len(files) == 1 else path
    tensors: dict[str, StoredTensor] = {}
    metadata: dict[str, str] = {}
    for shard in files:
        found, about = read_tensors(shard)
        tensors, metadata = tensors | found, metadata | about
    modules, problems = _modules(file, tensors)
    config = _peft_config(file, metadata, alpha)
    return LoraFile(file, [_module(name, keys, tensors, config) for name, keys in modules.items()], problems)


def _files_of(path: Path) -> list[Path]:
    """The one file that `path` means, or those of a folder that an index makes one."""
    if any(path.glob("*.safetensors.index.json")):
        return checkpoint_files(path)
    files = sorted(path.glob("*.safetensors")) if path.is_dir() else [path] if path.is_file() else []
    if len(files) == 1 and files[0].suffix == ".safetensors":
        return files
    found = ", ".join(file.name for file in files[:SHOWN]) or ("none" if path.exists() else "no such path")
    raise ExportError(
        f"{path} is not one LoRA (found: {found}); a .safetensors file, or a folder with exactly one, or with an "
        "index of several, can be merged; give the file itself, and save a .pt, .pth or .bin as .safetensors first"
    )


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


def _module(name: str, keys: Keys, tensors: Mapping[str, StoredTensor], config: PeftConfig) -> LoraModule:
    if problem := _broken(keys, tensors):
        return LoraModule(name, problem=problem)
    return LoraModule(name, tuple(_additions(name, keys, tensors, config)))


def _broken(keys: Keys, tensors: Mapping[str, StoredTensor]) -> str | None:
    """What is wrong with the keys of one module."""
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
    if "alpha" in keys and prod(shape := tensors[keys["alpha"]].shape) != 1:  # NaN is found with what it multiplies
        return f"{keys['alpha']} {shape}: not one number"
    return None


def _additions(module: str, keys: Keys, tensors: Mapping[str, StoredTensor], config: PeftConfig) -> Iterator[Addition]:
    scale = 1.0
    if "down" in keys:
        rank = tensors[keys["down"]].shape[0]
        scale = tensors[keys["alpha"]].make().item() / rank if "alpha" in keys else config.scale(module, rank)
    for part, targets in TARGETS.items():
        if part in keys:
            used = (keys["up"], keys["down"]) if part == "up" else (keys[part],)
            factors = tuple(tensors[key] for key in used)
            delta = Delta(used, factors, scale if part in ("up", "up_bias") else 1.0)
            yield Addition(tuple(_spellings(module, targets)), delta)


def _spellings(module: str, targets: tuple[str, ...]) -> Iterator[str]:
    """The aliases that a module's parameters could have: with and without each prefix."""
    yield from (FLAT_PREFIX.sub(FLAT, module) + target for target in targets)
    for prefix in PREFIXES:
        if module.startswith(prefix):
            yield from _spellings(module.removeprefix(prefix), targets)


def _peft_config(file: Path, metadata: Mapping[str, str], alpha: float | None) -> PeftConfig:
    """diffusers writes it into the file's metadata, PEFT beside a file that it always calls the same."""
    beside = file.with_name("adapter_config.json")
    text, found = metadata.get("lora_adapter_metadata"), None
    try:
        if text is not None:
            found = parse_object(text.encode())
        elif file.name == "adapter_model.safetensors":
            found = read_object_if_there(beside, ExportError)
        return PeftConfig(lora_alpha=alpha) if found is None else PeftConfig.model_validate(found)
    except (NotJson, ValidationError) as error:
        raise ExportError(
            f"{file} comes with a configuration that cannot be read: {error}; lora_alpha must be a number; "
            "save the LoRA again"
        ) from error
