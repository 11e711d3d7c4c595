"""One network of an export for MindIE, opened: what its description says of which tensors, and of the run it is for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from llmc.verify.files import Entry, open_tensor_file, read_keys
from llmc.verify.manifest import read_manifest
from llmc.verify.mindie.names import Expected, expected_tensors
from llmc.verify.mindie.types import BYTE, TYPES, Sizes, beside, leaves_of
from llmc.verify.network import EXPERTS, Network
from llmc.verify.sources import Sources, open_float, places_of
from llmc.verify.storage import Leaf

DESCRIPTION, WEIGHTS = "quant_model_description", "quant_model_weight"
FLOAT = "FLOAT"
MODEL_TYPE = "model_quant_type"
# keys of a description that are no tensors
SETTINGS = frozenset({MODEL_TYPE, "fa_quant_type", "timestep_policy", "mxfp4_scale_alg", "mxfp4_dst_type_max"})
ATTENTION, HEAD_SCALE = ".quant_type", ".fa_q.scale"  # after an attention's name
HEADS = ("num_attention_heads", "num_heads")  # in the float model's config.json


@dataclass(frozen=True)
class Layer:
    """A linear that the description calls quantized."""

    module: str  # in MindIE's network
    prefix: str  # of its tensors: the module, or `linear` below it where its input is multiplied
    kind: str

    @property
    def multiplier(self) -> str:
        """What its input is multiplied by, if it is there."""
        return f"{self.module}.div.mul_scale"

    @property
    def smoothed(self) -> bool:
        """Whether its tensors lie where smoothing puts them."""
        return self.prefix != self.module


@dataclass(frozen=True, kw_only=True)
class Described(Network):
    """One checkpoint with its description."""

    descriptions: tuple[Path, ...]
    rows: Mapping[str, Any]
    about: Mapping[str, str]  # the manifest: which generation, chip and type of the run it was written for
    expected: Mapping[str, Expected] | str  # by MindIE's names, or why that is not known

    @property
    def generation(self) -> str | None:
        """2.3, 3 or 2026-07; None where nobody says it."""
        return self.about.get("mindie_version")

    @property
    def fp16(self) -> bool:
        """Whether the run is in float16; bfloat16 is what MindIE takes unless told otherwise."""
        return self.about.get("dtype") == "fp16"

    @property
    def run_dtype(self) -> torch.dtype:
        """To which the loader casts scales."""
        return torch.float16 if self.fp16 else torch.bfloat16

    @property
    def by_name(self) -> Mapping[str, Expected]:
        """The tensors of the float model, by MindIE's names; empty where they cannot be told."""
        return {} if isinstance(self.expected, str) else self.expected

    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """Every linear with a quantized weight, whose type is one of MindIE's."""
        found = []
        for name, kind in self.rows.items():
            prefix, _, leaf = name.rpartition(".")
            if leaf == "weight" and isinstance(kind, str) and kind in TYPES:
                above, _, last = prefix.rpartition(".")
                module = above if last == "linear" and name not in self.by_name else prefix
                found.append(Layer(module, prefix, kind))
        return tuple(found)

    @cached_property
    def attentions(self) -> dict[str, str]:
        """Every attention that is quantized, and to what."""
        return {name.removesuffix(end): str(kind) for end in (ATTENTION, HEAD_SCALE)
                for name, kind in self.rows.items() if name.endswith(end)}  # fmt: skip

    def is_of_attention(self, name: str) -> bool:
        """Whether a tensor belongs to an attention that is quantized."""
        return any(
            name.startswith((f"{module}.q_rot", f"{module}.k_rot", f"{module}.fa_")) for module in self.attentions
        )

    def leaf(self, layer: Layer, what: str) -> Entry | None:
        """A tensor of a layer."""
        return self.entries.get(f"{layer.prefix}.{what}")

    def sizes(self, layer: Layer) -> Sizes | None:
        """As the float model has them, else as the weight itself; None where neither is there."""
        weight, known = self.leaf(layer, "weight"), self.by_name.get(f"{layer.module}.weight")
        shape = known.shape if known is not None else weight.shape if weight is not None else ()
        if len(shape) != 2:
            return None
        halved = known is None and weight is not None and weight.dtype == BYTE
        rows = self.leaf(layer, "input_scale")
        steps = rows.shape[0] if layer.kind == "W8A8_TIMESTEP" and rows is not None and rows.shape else 0
        return Sizes(shape[0], shape[1] * (2 if halved else 1), steps, self.fp16)

    def leaves(self, layer: Layer, of: Sizes) -> dict[str, Leaf]:
        """What must be there of a layer beside bias and multiplier."""
        weight = self.leaf(layer, "weight")
        return leaves_of(layer.kind, of, self.generation, weight.dtype if weight is not None else None)

    def known_leaves(self, layer: Layer, of: Sizes) -> dict[str, Leaf]:
        """All that may be there."""
        optional = {name: beside(name, of) for name in TYPES[layer.kind].optional}
        floats = {"bias": Leaf((torch.float32, torch.bfloat16, torch.float16), ((of.n,),), scale=False)}
        return optional | floats | self.leaves(layer, of)

    def sound_layers(self) -> Iterator[tuple[Layer, Sizes, Mapping[str, Entry]]]:
        """Those whose tensors are all there, in their types and shapes: values can be read."""
        for layer in self.layers:
            if (of := self.sizes(layer)) is None:
                continue
            wanted = self.known_leaves(layer, of)
            found = {leaf: entry for leaf in wanted if (entry := self.leaf(layer, leaf)) is not None}
            if self.leaves(layer, of).keys() <= found.keys() and all(wanted[x].fits(e) for x, e in found.items()):
                yield layer, of, found


def described_networks(folder: Path, sources: Sources) -> tuple[Described, ...]:
    """Every network of an export; of two experts each has a folder."""
    manifest = read_manifest(folder)
    about = {} if manifest is None else manifest.said
    places = [folder / name for name in EXPERTS if (folder / name).is_dir()] or [folder]
    return tuple(_opened(place, place != folder, about, sources) for place in places)


def _opened(folder: Path, inner: bool, about: Mapping[str, str], sources: Sources) -> Described:
    descriptions = tuple(sorted(folder.glob(f"{DESCRIPTION}*.json")))
    part = EXPERTS[folder.name] if inner else "transformer"
    config = _config(part, sources)
    return Described(
        folder=folder, label=folder.name if inner else "", part=part, runtime=None, scheme=None,
        files=tuple(open_tensor_file(file) for file in sorted(folder.glob("*.safetensors"))),
        descriptions=descriptions, rows=(read_keys(descriptions[0]) or {}) if descriptions else {},
        about=about, config=config, expected=_expected(part, sources, config),
    )  # fmt: skip


def _config(part: str, sources: Sources) -> dict[str, Any]:
    """The config.json of the float network."""
    if sources.float_model is None:
        return {}
    places = places_of(sources.float_model, part)
    return next((found for place in places if (found := read_keys(place / "config.json")) is not None), {})


def _expected(part: str, sources: Sources, config: Mapping[str, Any]) -> dict[str, Expected] | str:
    if sources.float_model is None:
        return sources.why_no_float
    model = open_float(sources.float_model, part)
    if model is None:
        return f"{sources.float_model} holds no safetensors file of {part}"
    return expected_tensors(model.entries, config)
