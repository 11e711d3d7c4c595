"""One network of an export for LightX2V, opened: all its linears in one scheme, smoothing beside the norms."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from llmc.numerics.spec import TensorSpec
from llmc.verify.files import Entry, open_tensor_file, read_keys
from llmc.verify.lightx2v.storages import KERNELS, STORAGES, Storage, act_of, recognized, storage_of
from llmc.verify.manifest import read_manifest
from llmc.verify.names import Linear, expected_tensors
from llmc.verify.native_config import from_native
from llmc.verify.network import EXPERTS, Export, Network, folder_of, network_folders
from llmc.verify.sources import Sources
from llmc.verify.storage import Leaf, Reading
from llmc.verify.verdict import NotChecked

UNKNOWN = "no storage that is known"
NATIVE = "lightx2v"  # whose names those of the release are
# linears of a block, by their modules in the float network, and what stands beside the norm that they read
SMOOTHED = {"attn1.to_q": "affine_norm1", "attn1.to_k": "affine_norm1", "attn1.to_v": "affine_norm1",
            "ffn.net.0.proj": "affine_norm3"}  # fmt: skip


@dataclass(frozen=True)
class LightX2VExport(Export):
    """With every lightx2v_*.json; None: it cannot be read."""

    runtimes: Mapping[str, Mapping[str, Any] | None]

    @property
    def first(self) -> WanNetwork:
        """The network that the runtime JSON is about, or the first of two experts."""
        network = self.networks[0]
        assert isinstance(network, WanNetwork)
        return network


@dataclass(frozen=True)
class WanNetwork(Network):
    """One checkpoint."""

    runtime: Mapping[str, Any] | None
    scheme: str | None  # as runtime JSON or manifest have it

    def own_config(self) -> Mapping[str, Any] | None:
        shapes = {name: entry.shape for name, entry in self.entries.items()}
        return from_native(self.config, shapes) if self.config and self.naming == NATIVE else self.config

    @cached_property
    def storages(self) -> Counter[str]:
        """How many linears look as if they were in which storage."""
        return Counter(self.looks_like(each) for each in self.linears if self.find(each) is not None)

    def looks_like(self, linear: Linear) -> str:
        """The storage that a linear's types and shapes fit."""
        weight, scale = self.find(linear), self.entries.get(f"{linear.name}.weight_scale")
        storage = weight and recognized(weight, scale, linear.outputs, linear.inputs)
        return storage.name if storage is not None else UNKNOWN

    @cached_property
    def storage(self) -> Storage | None:
        """What its linears should be in: as its scheme says, else as most of them look."""
        if self.scheme is not None:
            return storage_of(self.scheme)
        return next((STORAGES[name] for name, _ in self.storages.most_common() if name in STORAGES), None)

    def leaves(self, linear: Linear) -> Mapping[str, Leaf]:
        """What its storage has beside a weight."""
        return {} if self.storage is None else self.storage.leaves(linear.outputs, linear.inputs)

    def sound(self) -> Iterator[tuple[Linear, Mapping[str, Entry]]]:
        if self.storage is None:
            return
        for linear in self.linears:
            shape = self.storage.shape(linear.outputs, linear.inputs)
            wanted = {"weight": Leaf((self.storage.dtype,), (shape,)), **self.leaves(linear)}
            found = {leaf: entry for leaf in wanted if (entry := self.entries.get(f"{linear.name}.{leaf}")) is not None}
            if len(found) == len(wanted) and all(wanted[leaf].fits(entry) for leaf, entry in found.items()):
                yield linear, found

    def readings(self, linear: Linear, entries: Mapping[str, Entry]) -> Iterator[Reading]:
        assert self.storage is not None
        tensors = {leaf: entry.read() for leaf, entry in entries.items()}
        return self.storage.decode(tensors, linear.outputs, linear.inputs)

    @cached_property
    def foreign(self) -> dict[str, str]:
        """Tensors under a name of the other scheme, and what they should be called."""
        other = () if isinstance(self.drawn, NotChecked) else expected_tensors(self.drawn, self.other_naming)
        if isinstance(other, str):
            return {}
        own = {tuple(each.sources): each.name for each in self.everything}
        right = {each.name: own[tuple(each.sources)] for each in other}
        found = {}
        for name in self.entries.keys() - own.values():
            module, _, leaf = name.rpartition(".")
            for theirs, after in ((name, ""), (module, f".{leaf}")):
                if theirs in right and theirs not in own.values():
                    found[name] = right[theirs] + after
        return found

    @property
    def other_naming(self) -> str | None:
        """Whose names it should have none of."""
        return None if self.naming == NATIVE else NATIVE

    @property
    def reads_images(self) -> bool:
        """Whether it projects an image encoder's output."""
        return any(each.tensor.startswith("img_emb.") for each in self.everything)

    @cached_property
    def affine_norms(self) -> list[str]:
        """What smoothing leaves beside the modulated norms: in all blocks, or in none."""
        blocks = [] if isinstance(self.drawn, NotChecked) else [name for name, _ in self.drawn.part.blocks]
        return [f"{block}.{norm}" for block in blocks for norm in ("affine_norm1", "affine_norm3")]

    def multiplier(self, linear: Linear) -> Entry | None:
        block, _, inside = _in_block(linear.modules[0])
        return self.entries.get(f"{block}.{SMOOTHED[inside]}.weight") if inside in SMOOTHED else None

    def act(self, linear: Linear) -> TensorSpec | None:
        if self.scheme is not None and self.scheme in KERNELS:
            return act_of(self.scheme)
        return None if self.storage is None else self.storage.act

    def grids(self, linear: Linear, entries: Mapping[str, Entry]) -> Mapping[str, Tensor]:
        if "input_global_scale" in entries:  # the inverse of the scale above those of the input's groups
            return {"act_whole": 1 / entries["input_global_scale"].read().float()}
        return {"act_scale": entries["input_scale"].read()} if "input_scale" in entries else {}


def _in_block(module: str) -> tuple[str, str, str]:
    """The block of a module, and the module within it."""
    blocks, number, inside = module.split(".", 2) if module.count(".") > 1 else (module, "", "")
    return f"{blocks}.{number}", number, inside


def open_export(path: Path, sources: Sources) -> LightX2VExport:
    """Everything but values."""
    folder = folder_of(path)
    manifest = read_manifest(folder)
    runtimes = {file.name: read_keys(file) for file in sorted(folder.glob("lightx2v_*.json"))}
    runtime = next((content for content in runtimes.values() if content is not None), None)
    says = (runtime or {}).get("dit_quant_scheme")
    if says not in KERNELS and manifest is not None:
        says = manifest.said.get("scheme")
    places = network_folders(folder)
    networks = tuple(_opened(place, place != folder, runtime, says, sources) for place in places)
    return LightX2VExport(folder, manifest, networks, sources, runtimes)


def _opened(folder: Path, inner: bool, runtime: Any, scheme: object, sources: Sources) -> WanNetwork:
    config = read_keys(folder / "config.json")
    files = tuple(open_tensor_file(file) for file in sorted(folder.glob("*.safetensors")))
    names = {name for file in files for name in file.entries}
    diffusers = "num_attention_heads" in config if config else any(".attn1." in name for name in names)
    return WanNetwork(
        folder=folder, label=folder.name if inner else "", files=files, config=config,
        part=EXPERTS.get(folder.name, "transformer") if inner else "transformer", sources=sources,
        naming=None if diffusers else NATIVE, runtime=runtime, scheme=scheme if isinstance(scheme, str) else None,
    )  # fmt: skip
