"""One network's folder of an export, opened: tensors by name, and what config, runtime JSON and manifest say of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import Tensor

from llmc.verify.files import Entry, TensorFile, open_tensor_file, read_keys
from llmc.verify.listed import Listed
from llmc.verify.manifest import Manifest, read_manifest
from llmc.verify.storage import STORAGES, Leaf, Storage, recognized, storage_of
from llmc.verify.wan import Expected, Linear, Wan, read_wan

UNKNOWN = "no storage that is known"
EXPERTS = {"high_noise_model": "transformer", "low_noise_model": "transformer_2"}  # folder -> part of the pipeline


@dataclass(frozen=True)
class Export:
    """The folder that a runtime is pointed at."""

    folder: Path
    manifest: Manifest | None
    runtimes: Mapping[str, Mapping[str, Any] | None]  # every lightx2v_*.json; None: it cannot be read
    networks: tuple[Network, ...]


@dataclass(frozen=True)
class Network:
    """One checkpoint, and what is said of it. Only headers are read."""

    folder: Path
    label: str  # its folder below the export; empty for the export's own
    files: tuple[TensorFile, ...]
    config: Mapping[str, Any] | None
    runtime: Mapping[str, Any] | None
    scheme: str | None  # as manifest or runtime JSON have it
    part: str = "transformer"  # what a run calls it

    @property
    def unreadable(self) -> str:
        """Why no more than its files can be judged; empty if all of them can be read."""
        return "a file cannot be read" if any(file.problem for file in self.files) or not self.files else ""

    @cached_property
    def entries(self) -> Mapping[str, Entry]:
        """Every tensor; of those that lie in several files the first."""
        found: dict[str, Entry] = {}
        for file in self.files:
            for name, entry in file.entries.items():
                found.setdefault(name, entry)
        return found

    @cached_property
    def described(self) -> Wan | Listed | list[str]:
        """The network that config.json describes, or the keys that it lacks."""
        return read_wan(self.config or {}, self.runtime)

    @property
    def known(self) -> Wan | Listed:
        """The network, where it is described."""
        assert not isinstance(self.described, list)
        return self.described

    @property
    def wan(self) -> Wan:
        """The network, where it is known to be Wan's."""
        assert isinstance(self.described, Wan)
        return self.described

    @cached_property
    def images(self) -> bool:
        """Whether it projects an image encoder's output; where the config does not say so, whether a tensor does."""
        if self.known.images is not None:
            return self.known.images
        return any(self.find(each) is not None for each in self.known.float_tensors() if each.of_images)

    def linears(self) -> list[Linear]:
        """The linears that are quantized."""
        return [linear for linear in self.known.linears() if self.images or not linear.of_images]

    def float_tensors(self) -> list[Expected]:
        """The float tensors that must be there."""
        return [tensor for tensor in self.known.float_tensors() if self.images or not tensor.of_images]

    def find(self, expected: Expected, leaf: str = "") -> Entry | None:
        """A tensor as this folder names it."""
        name = expected.name(self.known.naming)
        return self.entries.get(f"{name}.{leaf}" if leaf else name)

    @cached_property
    def storages(self) -> Counter[str]:
        """How many linears look as if they were in which storage."""
        return Counter(self.looks_like(each) for each in self.linears() if self.find(each, "weight") is not None)

    def looks_like(self, linear: Linear) -> str:
        """The storage that a linear's types and shapes fit."""
        weight = self.find(linear, "weight")
        storage = weight and recognized(weight, self.find(linear, "weight_scale"), *sizes(linear))
        return storage.name if storage is not None else UNKNOWN

    @cached_property
    def storage(self) -> Storage | None:
        """What its linears should be in: as its scheme says, else as most of them look."""
        if self.scheme is not None:
            return storage_of(self.scheme)
        return next((STORAGES[name] for name, _ in self.storages.most_common() if name in STORAGES), None)

    def sound(self) -> Iterator[tuple[Linear, Mapping[str, Entry]]]:
        """The linears whose tensors are all there, in the types and shapes of the storage: values can be read."""
        if self.storage is None:
            return
        for linear in self.linears():
            leaves = self.storage.leaves(*sizes(linear))
            wanted = {"weight": Leaf((self.storage.dtype,), (self.storage.shape(*sizes(linear)),)), **leaves}
            found = {leaf: entry for leaf in wanted if (entry := self.find(linear, leaf)) is not None}
            if len(found) == len(wanted) and all(wanted[leaf].fits(entry) for leaf, entry in found.items()):
                yield linear, found

    def input_multiplier(self, linear: Linear) -> Tensor | None:
        """What a linear's input is multiplied by at run time, if anything: kept beside the norm that it reads."""
        prefix, group, leaf = linear.native.rsplit(".", 2)
        norms = {"self_attn.q": "affine_norm1", "self_attn.k": "affine_norm1", "self_attn.v": "affine_norm1",
                 "ffn.0": "affine_norm3"}  # fmt: skip
        entry = self.entries.get(f"{prefix}.{norms.get(f'{group}.{leaf}')}.weight")
        return None if entry is None else entry.read().float()

    def read(self, expected: Expected) -> Tensor:
        """A float tensor, in float32."""
        entry = self.find(expected)
        assert entry is not None
        return entry.read().float()


def sizes(linear: Linear) -> tuple[int, int]:
    """Outputs and inputs."""
    n, k = linear.shape
    assert isinstance(n, int) and isinstance(k, int)
    return n, k


def open_export(path: Path) -> Export:
    """Everything but values."""
    folder = folder_of(path)
    manifest = read_manifest(folder)
    runtimes = {file.name: read_keys(file) for file in sorted(folder.glob("lightx2v_*.json"))}
    runtime = next((content for content in runtimes.values() if content is not None), None)
    says = manifest.said.get("scheme") if manifest is not None else None
    if says is None and runtime is not None and isinstance(found := runtime.get("dit_quant_scheme"), str):
        says = found
    places = network_folders(folder)
    networks = tuple(
        Network(
            folder=place,
            label="" if place == folder else place.name,
            files=tuple(open_tensor_file(file) for file in sorted(place.glob("*.safetensors"))),
            config=read_keys(place / "config.json"),
            runtime=runtime,
            scheme=says,
            part=EXPERTS.get(place.name, "transformer") if place != folder else "transformer",
        )
        for place in places
    )
    return Export(folder, manifest, runtimes, networks)


def folder_of(path: Path) -> Path:
    """The folder of an export, which may be given by a file in it."""
    return path if path.is_dir() else path.parent


def network_folders(folder: Path) -> list[Path]:
    """The folder itself, or those of two experts."""
    experts = [folder / name for name in EXPERTS if any((folder / name).glob("*.safetensors"))]
    return experts if experts and not any(folder.glob("*.safetensors")) else [folder]
