"""diffusers with torchao: a file's metadata says which tensors make which class, and must agree with what is there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from llmc.files.json_text import NotJson, object_in, parse_json
from llmc.numerics.spec import TensorSpec
from llmc.verify.base import Target
from llmc.verify.file_rules import components_are_the_models, manifest_agrees
from llmc.verify.files import open_tensor_file, parse_keys, read_keys
from llmc.verify.judged import JudgedPart
from llmc.verify.manifest import read_manifest
from llmc.verify.names import Linear
from llmc.verify.network import Export
from llmc.verify.plain_codes import PlainNetwork
from llmc.verify.plain_rules import PlainRules, plain_verdicts
from llmc.verify.settings import acts_are_the_judged_ones, config_differences
from llmc.verify.sources import Sources
from llmc.verify.verdict import Checked, Finding, NotChecked, Verdict, some, verdict
from llmc.verify.witness import witness_agrees

LEAVES = {"weight": "_weight_qdata", "weight_scale": "_weight_scale", "input_multiplier": "_weight_act_pre_scale"}
ATTRIBUTES = {"weight": "qdata", "weight_scale": "scale", "input_multiplier": "act_pre_scale"}
CLASSES = {torch.int8: "Int8Tensor", torch.float8_e4m3fn: "Float8Tensor"}
SCHEMES = {  # configuration -> class of the weights, whether activations are quantized
    "Int8WeightOnlyConfig": ("Int8Tensor", False),
    "Int8DynamicActivationInt8WeightConfig": ("Int8Tensor", True),
    "Float8WeightOnlyConfig": ("Float8Tensor", False),
    "Float8DynamicActivationFloat8WeightConfig": ("Float8Tensor", True),
}
# how torchao measures activations: the scale in the model's type; its int8 grid has 255 codes, -128 too
ACTS = {
    "Int8Tensor": TensorSpec(format="int8", granularity="per_token", scale_dtype="of_input",
                             divisor="half_of_all_codes", quotient="times_reciprocal"),
    "Float8Tensor": TensorSpec(format="fp8_e4m3", granularity="per_token", scale_dtype="of_input"),
}  # fmt: skip
PER_ROW = {"_type": "PerRow", "_data": {"dim": -1}}
# what a class is told of how to quantize an input, where another value would be another grid
ACT_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "Int8Tensor": {"granularity": PER_ROW, "mapping_type": {"_type": "MappingType", "_data": "SYMMETRIC"},
                   "reduce_range": False},
    "Float8Tensor": {"granularity": PER_ROW, "hp_value_lb": None, "hp_value_ub": None},
}  # fmt: skip


@dataclass(frozen=True)
class TorchaoNetwork(PlainNetwork):
    """One network's folder."""

    def about(self, linear: Linear) -> dict[str, Any] | None:
        """What the files' metadata say of its weight."""
        metadata = {key: value for file in self.files for key, value in file.metadata.items()}
        return parse_keys(metadata.get(linear.tensor, ""))

    def act(self, linear: Linear) -> TensorSpec | None:
        about = self.about(linear) or {}
        quantized = object_in(about, "_data").get("act_quant_kwargs") is not None
        return ACTS.get(str(about.get("_type"))) if quantized else None


def pipeline_is_whole(export: Export) -> Finding:
    """model_index.json names components, and each has its folder."""
    index = read_keys(export.folder / "model_index.json")
    if index is None:
        return Checked(["there is no model_index.json that can be read"])
    parts = [name for name, value in index.items() if isinstance(value, list) and any(value)]
    missing = [name for name in parts if not (name.isidentifier() and any((export.folder / name).glob("*")))]
    return Checked(
        [f"{name} is named in model_index.json, and not there" for name in missing], f"{len(parts)} components"
    )


def config_names_torchao(network: TorchaoNetwork) -> Finding:
    """config.json says that torchao reads the weights, and in which of its classes they are."""
    quantization = _quantization(network)
    scheme = _scheme(network)
    if quantization.get("quant_method") != "torchao" or scheme not in SCHEMES:
        return Checked([f"quantization_config says {quantization.get('quant_method')} and {scheme}; it must be torchao "
                        f"and one of {', '.join(SCHEMES)}"])  # fmt: skip
    kept = texts(quantization.get("modules_to_not_convert"))
    floats = [linear.name for linear in network.linears if not network.quantized(linear)]
    loose = [name for name in floats if not any(each in name for each in kept)]
    problems = [f"{some(loose)}: float, and not among modules_to_not_convert"] if loose else []
    for linear in network.linears:
        hit = next((each for each in kept if network.quantized(linear) and f"{each}." in f"{linear.name}.weight"), None)
        if hit is not None:
            problems.append(f"{linear.name} is quantized, and modules_to_not_convert has {hit}")
    return Checked(problems, scheme)


def classes_agree(network: TorchaoNetwork) -> Finding:
    """Each tensor's class in the metadata is that of what is stored, in the scheme of config.json."""
    metadata = {key: value for file in network.files for key, value in file.metadata.items()}
    problems = []
    for linear in network.linears:
        name = f"{linear.name}.weight"
        about = parse_keys(metadata.get(name, ""))
        codes = network.leaf(linear, "weight")
        kind = "Tensor" if codes is None else CLASSES.get(codes.dtype, "no class")
        if about is None or about.get("_type") != kind:
            problems.append(
                f"{name} is stored as {kind}; the metadata says {None if about is None else about.get('_type')}"
            )
        elif codes is not None:
            problems += [f"{name}: {problem}" for problem in _class_problems(network, linear, kind, about)]
    listed = _names(metadata.get("tensor_names", "[]"))
    names = [each.tensor for each in network.everything]
    lost = [name for name in names if name not in listed]
    problems += [f"{some(lost)} not among the metadata's tensor_names"] if lost else []
    return Checked(problems, f"{len(listed)} tensors")


def _class_problems(network: TorchaoNetwork, linear: Linear, kind: str, about: dict[str, Any]) -> Iterator[str]:
    stored = sorted(ATTRIBUTES[what] for what in LEAVES if network.leaf(linear, what) is not None)
    if sorted(texts(about.get("_tensor_data_names"))) != stored:
        yield f"the metadata names {about.get('_tensor_data_names')}, and {stored} are stored"
    data = object_in(about, "_data")
    if data.get("block_size") != [1, linear.shape[1]]:
        yield f"block_size is {data.get('block_size')}; a scale is for {[1, linear.shape[1]]}"
    told = object_in(object_in(data, "act_quant_kwargs"), "_data")
    for key, wanted in ACT_FIELDS.get(kind, {}).items() if data.get("act_quant_kwargs") is not None else ():
        if key not in told or told[key] != wanted:
            yield f"{key} of its activations is {told.get(key)}; it is {wanted}"
    expected = SCHEMES.get(_scheme(network) or "")
    if expected is not None and (kind, data.get("act_quant_kwargs") is not None) != expected:
        acts = "float" if data.get("act_quant_kwargs") is None else "quantized"
        yield f"it is {kind} with {acts} activations, unlike config.json"


def network_is_the_judged_one(network: TorchaoNetwork) -> Finding:
    """Every setting of config.json is that of the network that was judged."""
    judged = network.sources.judged(network.part)
    if not isinstance(judged, JudgedPart):
        return judged if isinstance(judged, NotChecked) else Checked([judged])
    config = network.config or {}
    return Checked(list(config_differences(config, judged.config, ("quantization_config",))), f"{len(config)} settings")


OWN_RULES: PlainRules = {
    "config.json": config_names_torchao,
    "network settings": network_is_the_judged_one,
    "tensor classes": classes_agree,
}
LAST_RULES: PlainRules = {"input arithmetic": acts_are_the_judged_ones, "witness": witness_agrees}


class DiffusersExport(Target):
    """A pipeline folder with networks as torchao keeps them."""

    name: Literal["diffusers"] = "diffusers"

    def looks_like(self, path: Path) -> bool:
        return bool(_network_folders(path))

    def verdicts(self, path: Path, sources: Sources) -> Iterator[Verdict]:
        networks = tuple(_network(folder, sources) for folder in _network_folders(path))
        export = Export(path, read_manifest(path), networks, sources)
        yield verdict("", "files as written", manifest_agrees(export))
        yield verdict("", "pipeline", pipeline_is_whole(export))
        yield verdict("", "components", components_are_the_models(export))
        for network in networks:
            yield from plain_verdicts(network, OWN_RULES, LAST_RULES)


def _network_folders(path: Path) -> list[Path]:
    configs = {file.parent: read_keys(file) or {} for file in sorted(path.glob("*/config.json"))}
    return [folder for folder, config in configs.items() if "quantization_config" in config]


def _network(folder: Path, sources: Sources) -> TorchaoNetwork:
    return TorchaoNetwork(
        folder=folder, label=folder.name, part=folder.name, config=read_keys(folder / "config.json"), naming=None,
        files=tuple(open_tensor_file(file) for file in sorted(folder.glob("*.safetensors"))), sources=sources,
        leaves=LEAVES,
    )  # fmt: skip


def _quantization(network: TorchaoNetwork) -> dict[str, Any]:
    return object_in(network.config or {}, "quantization_config")


def _scheme(network: TorchaoNetwork) -> str | None:
    found = object_in(object_in(_quantization(network), "quant_type"), "default").get("_type")
    return found if isinstance(found, str) else None


def _names(text: str) -> list[str]:
    """Those of a list in JSON; none if it is no such list."""
    try:
        return texts(parse_json(text.encode()))
    except NotJson:
        return []


def texts(value: object) -> list[str]:
    """Those of a list of texts; none if it is no such list."""
    return value if isinstance(value, list) and all(isinstance(item, str) for item in value) else []
