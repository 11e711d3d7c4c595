"""One network of an export for MindIE, opened: what its description says of which tensors, and of the run it is for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from llmc.layers.attention import AttentionState, QuantAttention
from llmc.layers.linear import in_mode
from llmc.numerics.spec import TensorSpec
from llmc.verify.files import Entry, open_tensor_file, read_keys
from llmc.verify.manifest import read_manifest
from llmc.verify.mindie.attention_types import attention_spec
from llmc.verify.mindie.types import BYTE, GRIDS, TYPES, Sizes, act_spec, beside, leaves_of, readings
from llmc.verify.names import Expected, Linear
from llmc.verify.network import EXPERTS, Held, Network
from llmc.verify.sources import Sources, float_config
from llmc.verify.storage import Leaf, Reading
from llmc.verify.verdict import NotChecked

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


@dataclass(frozen=True)
class Described(Network):
    """One checkpoint with its description. `config` is that of the float network, which MindIE loads from elsewhere."""

    descriptions: tuple[Path, ...]
    rows: Mapping[str, Any]
    about: Mapping[str, str]  # the manifest: which generation, chip and type of the run it was written for
    folds: ClassVar[bool] = False  # MindIE keeps the float model's tensors

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

    @cached_property
    def by_name(self) -> Mapping[str, Expected]:
        """The tensors of the float model, by MindIE's names; empty where they cannot be told."""
        return {each.tensor: each for each in self.everything}

    def find(self, expected: Expected) -> Entry | None:
        module, _, leaf = expected.tensor.rpartition(".")
        return self.entries.get(expected.tensor) or self.entries.get(f"{module}.linear.{leaf}")

    def quantized(self, linear: Linear) -> bool:
        return linear.name in self._by_module

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

    @cached_property
    def _by_module(self) -> dict[str, Layer]:
        return {layer.module: layer for layer in self.layers}

    def sound(self) -> Iterator[tuple[Linear, Mapping[str, Entry]]]:
        for layer, _, entries in self.sound_layers():
            known = self.by_name.get(f"{layer.module}.weight")
            if isinstance(known, Linear):
                yield known, entries

    def readings(self, linear: Linear, entries: Mapping[str, Entry]) -> Iterator[Reading]:
        layer = self._by_module[linear.name]
        of = self.sizes(layer)
        assert of is not None
        return readings(layer.kind, {leaf: entry.read() for leaf, entry in entries.items()}, of)

    def tells(self, linear: Linear, entries: Mapping[str, Entry]) -> bool:
        return not (self._by_module[linear.name].kind == "W8A8" and self.fp16 and "weight_scale" not in entries)

    def multiplier(self, linear: Linear) -> Entry | None:
        return self.entries.get(f"{linear.name}.div.mul_scale")

    def act(self, linear: Linear) -> TensorSpec | None:
        return act_spec(self._by_module[linear.name].kind, self.fp16, self.generation)

    def grids(self, linear: Linear, entries: Mapping[str, Entry]) -> Mapping[str, Tensor]:
        kind = self._by_module[linear.name].kind
        if kind not in GRIDS:
            return {}
        of = "act" if kind == "W8A8" else "steps"
        return {f"{of}_scale": entries["input_scale"].read(), f"{of}_zero": entries["input_offset"].read().float()}

    @cached_property
    def own_attentions(self) -> dict[str, str]:
        """The attentions of the float network that are quantized, and the module of MindIE's that each is in."""
        if isinstance(self.drawn, NotChecked):
            return {}
        modules = {module: each.name for each in self.linears for module in each.modules}
        places = {name: modules.get(f"{name}.to_q", "").rpartition(".")[0] for name in self.drawn.attentions}
        return {name: place for name, place in places.items() if place in self.attentions}

    def attention_tensors(self) -> Held:
        for name, place in self.own_attentions.items():
            for leaf in ("q_rot", "k_rot", *(f"fa_{role}.scale" for role in "qkv")):
                if (entry := self.entries.get(f"{place}.{leaf}")) is not None:
                    ours = "rotation" if leaf.endswith("_rot") else f"scale_{leaf[3]}"
                    yield f"{name}.{ours}", entry.name, entry.read()

    @contextmanager
    def attending(self, module: nn.Module) -> Iterator[None]:
        assert not isinstance(self.drawn, NotChecked)
        attentions = []
        for name, place in self.own_attentions.items():
            spec = attention_spec(self.attentions[place], self.run_dtype)
            inner: Any = module.get_submodule(name)
            attention = QuantAttention(name, inner, spec, inner.heads, self.drawn.attentions[name])
            rotation = self.entries.get(f"{place}.q_rot")
            scales = [self.entries.get(f"{place}.fa_{role}.scale") for role in "qkv"]
            q, k, v = (None if entry is None else entry.read().float().flatten() for entry in scales)
            attention.state = AttentionState(
                rotation=None if rotation is None else rotation.read().float(),
                scales=None if q is None or k is None or v is None else (q, k, v),
            )
            attentions.append(attention)
        with in_mode(attentions, "quantized"):
            yield


def described_networks(folder: Path, sources: Sources) -> tuple[Described, ...]:
    """Every network of an export; of two experts each has a folder."""
    manifest = read_manifest(folder)
    about = {} if manifest is None else manifest.said
    places = [folder / name for name in EXPERTS if (folder / name).is_dir()] or [folder]
    return tuple(_opened(place, place != folder, about, sources) for place in places)


def _opened(folder: Path, inner: bool, about: Mapping[str, str], sources: Sources) -> Described:
    descriptions = tuple(sorted(folder.glob(f"{DESCRIPTION}*.json")))
    part = EXPERTS[folder.name] if inner else "transformer"
    return Described(
        folder=folder, label=folder.name if inner else "", part=part, sources=sources, naming="mindie",
        files=tuple(open_tensor_file(file) for file in sorted(folder.glob("*.safetensors"))),
        config=float_config(sources.float_model, part),
        descriptions=descriptions, rows=(read_keys(descriptions[0]) or {}) if descriptions else {}, about=about,
    )  # fmt: skip
