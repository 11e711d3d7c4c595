"""Rules of LightX2V about files: laid out as it loads them, in one precision, and the JSON beside them."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmc.files.words import shown
from llmc.verify.files import Entry, read_keys
from llmc.verify.lightx2v.network import NATIVE, LightX2VExport, WanNetwork
from llmc.verify.lightx2v.storages import storage_of
from llmc.verify.native_config import lacking
from llmc.verify.network import EXPERTS
from llmc.verify.verdict import Checked, Finding, NotChecked, some

# read there with config["..."], for which LightX2V has no default
SAMPLING_KEYS = ("infer_steps", "target_video_length", "target_height", "target_width", "sample_guide_scale",
                 "sample_shift", "self_attn_1_type", "cross_attn_1_type")  # fmt: skip
ONLY_WHOLE = ("nvfp4", "fp8-pertensor")  # storages that LightX2V loads lazily with wrong or missing scales
ONLY_LAZY = ("fp8-b128",)  # loaded at once, its scales arrive in bf16
BLOCK = re.compile(r"\w*blocks\.(\d+)\.")
Problems = Iterator[str]


def runtime_fits(export: LightX2VExport) -> Finding:
    """The runtime JSON starts these weights."""
    if not export.runtimes and all(network.naming != NATIVE for network in export.networks):
        return Checked(note="in diffusers' names: scripts/converter.py makes them LightX2V's before anything starts")
    if not export.runtimes:
        return NotChecked("nothing says how LightX2V is started", "lightx2v_<scheme>.json, which the export brought")
    return Checked([f"{name}: {problem}" for name, runtime in export.runtimes.items()
                    for problem in _runtime_problems(export, name, runtime)])  # fmt: skip


def _runtime_problems(export: LightX2VExport, name: str, runtime: Any) -> Problems:
    if runtime is None:
        yield "it is no JSON object"
        return
    scheme = runtime.get("dit_quant_scheme")
    if runtime.get("dit_quantized") is not True:
        yield "dit_quantized is not true: the quantized weights would be read as float ones"
    first = export.first
    manifest = export.manifest.said.get("scheme") if export.manifest is not None else None
    found = first.storages.most_common(1)[0][0] if first.storages else None
    storage = storage_of(scheme) if isinstance(scheme, str) else None
    if storage is None:
        yield f"LightX2V has no dit_quant_scheme {scheme}"
    elif manifest is not None and storage_of(manifest) != storage:
        yield f"dit_quant_scheme is {scheme}; the weights were written for {manifest}"
    elif found is not None and found != storage.name:
        yield f"dit_quant_scheme is {scheme}; the weights are in {found}"
    missing = [key for key in SAMPLING_KEYS if key not in runtime]
    if first.reads_images and "cross_attn_2_type" not in runtime:
        missing.append("cross_attn_2_type")
    if missing:
        yield f"it lacks {', '.join(missing)}, which LightX2V reads without a default"
    yield from _location_problems(export, runtime)
    lazy = bool(runtime.get("lazy_load"))
    if storage is not None and lazy and storage.name in ONLY_WHOLE:
        yield f"lazy_load is on, with which LightX2V computes {scheme} with wrong scales or none"
    if storage is not None and not lazy and storage.name in ONLY_LAZY:
        yield f"lazy_load is off, with which LightX2V rounds the scales of {scheme}, and its kernel refuses them"


def _location_problems(export: LightX2VExport, runtime: dict[str, Any]) -> Problems:
    wanted = {"dit_quantized_ckpt": export.folder}
    if len(export.networks) > 1:
        wanted = {f"{name.removesuffix('_model')}_quantized_ckpt": export.folder / name for name in EXPERTS}
        if "dit_quantized_ckpt" in runtime:
            yield "dit_quantized_ckpt would give both experts the same weights; name each one's own"
        if "boundary" not in runtime:
            yield "it lacks boundary, at which the experts take turns"
    for key, folder in wanted.items():
        given = runtime.get(key)
        if given is None:
            yield f"it lacks {key}, so that LightX2V would not find the weights"
        elif resolved(given) not in [resolved(str(place)) for place in (folder, *folder.glob("*.safetensors"))]:
            yield f"{key} is {shown(given)}, and the weights lie in {folder.resolve()}"


def resolved(place: object) -> Path | None:
    """Where a path that a file gives leads, if it is one."""
    return Path(os.path.realpath(place)) if isinstance(place, str) and "\0" not in place else None


def config_describes(network: WanNetwork) -> Finding:
    """config.json has the keys that LightX2V reads, and none that would override the runtime JSON."""
    if network.config is None:
        return Checked(["there is no config.json that can be read"])
    if network.naming != NATIVE:
        return Checked(note="in diffusers' keys, to be renamed by scripts/converter.py")
    if keys := lacking(network.config):
        return Checked([f"config.json lacks {', '.join(keys)}"])
    over = sorted({*SAMPLING_KEYS, "enable_cfg", "seed", "task", "model_cls"} & network.config.keys())
    return Checked([f"{key} in config.json would override the runtime JSON" for key in over])


def one_precision(network: WanNetwork) -> Finding:
    """One checkpoint in the folder, and all linears in one storage."""
    return Checked(
        list(_mixed(network)), ", ".join(f"{count} linears in {name}" for name, count in network.storages.items())
    )


def _mixed(network: WanNetwork) -> Problems:
    seen: dict[str, Entry] = {}
    doubles: Counter[tuple[str, ...]] = Counter()
    for file in network.files:
        for name, entry in file.entries.items():
            other = seen.setdefault(name, entry)
            if other is not entry:
                kinds = sorted({str(e.dtype).removeprefix("torch.") for e in (other, entry)})
                doubles[other.file.name, file.path.name, " and ".join(kinds)] += 1
    for (first, second, types), count in doubles.items():
        yield f"{count} tensors ({types}) lie in {first} and in {second}: LightX2V merges all files of a folder"
    if len(network.storages) > 1:
        common = network.storages.most_common(1)[0][0]
        there = [each for each in network.linears if network.find(each) is not None]
        odd = [each.name for each in there if network.looks_like(each) != common]
        yield f"two precisions: most linears are in {common}, but not {some(odd)}"


def layout_is_right(network: WanNetwork) -> Finding:
    """Block files hold their blocks and nothing else, and an index names what is there."""
    names = {file.path.name for file in network.files}
    problems = list(_index_problems(network))
    blocks = {name for name in names if re.fullmatch(r"block_\d+\.safetensors", name)}
    if not blocks and "non_block.safetensors" not in names:
        return Checked(problems)
    numbers = {found[1] for each in network.everything if (found := BLOCK.match(each.tensor))}
    wanted = {f"block_{number}.safetensors" for number in numbers} | {"non_block.safetensors"}
    problems += [f"{name} is missing" for name in sorted(wanted - names)]
    problems += [f"{name} is no file of this network's blocks" for name in sorted(names - wanted)]
    for file in network.files:
        for name in file.entries:
            block = BLOCK.match(name)
            right = f"block_{block[1]}.safetensors" if block else "non_block.safetensors"
            if file.path.name in wanted and file.path.name != right:
                problems.append(f"{name} lies in {file.path.name}; lazy loading looks for it in {right}")
    return Checked(problems, f"{len(blocks)} block files")


def _index_problems(network: WanNetwork) -> Problems:
    for index in sorted(network.folder.glob("*.index.json")):
        weight_map = (read_keys(index) or {}).get("weight_map")
        if not isinstance(weight_map, dict):
            yield f"{index.name} has no weight_map"
            continue
        there = {name: entry.file.name for name, entry in network.entries.items()}
        wrong = sorted(name for name in weight_map.keys() | there.keys() if weight_map.get(name) != there.get(name))
        if wrong:
            yield f"{index.name} is wrong about {some(wrong)}"
