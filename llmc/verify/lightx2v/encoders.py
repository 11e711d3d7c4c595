"""LightX2V's UMT5 and the image half of CLIP: modules that take exactly their own names, told from names and shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import ClassVar

import torch

from llmc.errors import ExportError
from llmc.files.numbers import MOST_BLOCKS
from llmc.files.state_dict import Unreadable, load_saved, named_tensors
from llmc.numerics.spec import TensorSpec
from llmc.verify.files import Entry, TensorFile, open_tensor_file
from llmc.verify.lightx2v.file_rules import resolved
from llmc.verify.lightx2v.network import LightX2VExport
from llmc.verify.names import Expected, Linear, Piece
from llmc.verify.plain_codes import PlainNetwork
from llmc.verify.plain_rules import PlainRules, plain_verdicts
from llmc.verify.settings import acts_are_the_judged_ones
from llmc.verify.verdict import Checked, Finding, NotChecked, Verdict, verdict

LEAVES = {"weight": "weight", "weight_scale": "weight_scale"}
SUFFIXES = (".pth", ".safetensors")
UNREAD = frozenset({"visual.head", "log_scale"})  # CLIP's module asks for these two, and nobody reads them


@dataclass(frozen=True)
class Kind:
    """One of the two: how its files begin, its keys in the runtime JSON, and its part of the pipeline."""

    stem: str
    key: str
    part: str
    dtype: torch.dtype  # of everything but codes and scales
    describe: Callable[[Mapping[str, Entry]], Iterator[Expected]]


@dataclass(frozen=True)
class EncoderFile(PlainNetwork):
    """One file. What the network consists of is told by the file itself."""

    kind: Kind
    unread: ClassVar[frozenset[str]] = UNREAD
    exact_scales: ClassVar[torch.dtype] = torch.float32  # as they stay there

    @cached_property
    def expected(self) -> tuple[Expected, ...] | NotChecked:
        if self.lacking:
            return NotChecked(f"the sizes of the encoder are those of {', '.join(self.lacking)}")
        return tuple(self.kind.describe(self.entries))

    def may_be_smoothed(self, module: str) -> bool:
        absorbing = {each for linear in self.linears if linear.absorbs for each in linear.modules}
        return ".layer_norm" in module or module in absorbing

    @property
    def lacking(self) -> list[str]:
        """Tensors that tell a size, and are not there."""
        axes = TOLD_BY[self.kind.key]
        return [name for name, count in axes.items()
                if name not in self.entries or len(self.entries[name].shape) != count]  # fmt: skip

    def act(self, linear: Linear) -> TensorSpec | None:
        codes = self.leaf(linear, "weight")
        integer = codes is not None and codes.dtype == torch.int8
        return TensorSpec(format="int8" if integer else "fp8_e4m3", granularity="per_token")


def encoder_verdicts(export: LightX2VExport) -> Iterator[Verdict]:
    """Every rule, on every encoder below the export."""
    for kind in KINDS:
        for path in sorted(export.folder.glob(f"*/{kind.stem}*")):
            if path.suffix in SUFFIXES:
                network = EncoderFile(
                    folder=path.parent, label=path.relative_to(export.folder).as_posix(), files=(_open(path),),
                    config=None, part=kind.part, sources=export.sources, naming=None, leaves=LEAVES, kind=kind,
                )  # fmt: skip
                if network.lacking and network.unreadable is None:
                    yield verdict(network.label, "sizes", Checked([str(network.expected.why)]))  # type: ignore[union-attr]
                own: PlainRules = {
                    "runtime JSON": partial(_is_named, export, kind),
                    "one type": partial(_is_of_one_type, kind),
                }
                yield from plain_verdicts(network, own, {"input arithmetic": acts_are_the_judged_ones})


def _is_named(export: LightX2VExport, kind: Kind, network: PlainNetwork) -> Finding:
    """The runtime JSON says that the encoder is quantized, how, and where it lies."""
    (path,) = (file.path for file in network.files)
    problems, precision = [], path.parent.name
    for name, runtime in export.runtimes.items():
        found = {key: (runtime or {}).get(f"{kind.key}_{key}") for key in ("quantized", "quant_scheme")}
        if found["quantized"] is not True or not str(found["quant_scheme"]).startswith(f"{precision}-"):
            problems.append(f"{name} says {found} of {kind.key}; {path.name} is {precision}")
        elif resolved((runtime or {}).get(f"{kind.key}_quantized_ckpt")) != resolved(str(path)):
            problems.append(f"{name}: {kind.key}_quantized_ckpt does not lead to {path.name}")
    return Checked(problems)


def _is_of_one_type(kind: Kind, network: PlainNetwork) -> Finding:
    """All that is neither codes nor scales has the type in which LightX2V runs the encoder."""
    dtype = str(kind.dtype).removeprefix("torch.")
    wrong = [each.tensor for each in network.float_tensors
             if (entry := network.find(each)) is not None and entry.dtype != kind.dtype]  # fmt: skip
    return Checked([f"{name} is not {dtype}, as LightX2V runs this encoder in" for name in wrong], dtype)


@dataclass(frozen=True, eq=False)
class _Loaded(Entry):
    """A tensor of a torch file, mapped into memory."""

    values: torch.Tensor

    def read(self) -> torch.Tensor:
        return self.values


def _open(path: Path) -> TensorFile:
    if path.suffix == ".safetensors":
        return open_tensor_file(path)
    try:
        tensors = named_tensors(path, load_saved(path, ExportError), ExportError)
    except (Unreadable, ExportError) as error:
        return TensorFile(path, problem=f"{path.name} cannot be read: {error}")
    return TensorFile(path, {
        name: _Loaded(name, path, value.dtype, tuple(value.shape), 0, value) for name, value in tensors.items()
    })  # fmt: skip


# key -> the tensors that tell its sizes, the first of them its width, and how many axes each has
TOLD_BY = {
    "t5": {"token_embedding.weight": 2, "blocks.0.attn.q.weight": 2, "blocks.0.ffn.fc1.weight": 2},
    "clip": {"visual.pre_norm.weight": 1, "visual.transformer.0.mlp.0.weight": 2},
}


def _t5(entries: Mapping[str, Entry]) -> Iterator[Expected]:
    embedding, q, fc1 = (entries[name].shape for name in TOLD_BY["t5"])
    dim, inner, ffn = embedding[1], q[0], fc1[0]
    yield _whole("token_embedding.weight", "shared.weight", embedding)
    for number in _numbers(r"blocks\.(\d{1,9})\.", entries):
        there, here = f"blocks.{number}", f"encoder.block.{number}.layer"
        for leaf in "qkv":
            yield _linear(f"{there}.attn.{leaf}", [f"{here}.0.SelfAttention.{leaf}"], inner, dim, leaf == "v")
        yield _linear(f"{there}.attn.o", [f"{here}.0.SelfAttention.o"], dim, inner)
        for theirs, leaf in (("gate.0", "wi_0"), ("fc1", "wi_1")):  # the gate multiplies what wi_1 gives
            yield _linear(f"{there}.ffn.{theirs}", [f"{here}.1.DenseReluDense.{leaf}"], ffn, dim, leaf == "wi_1")
        yield _linear(f"{there}.ffn.fc2", [f"{here}.1.DenseReluDense.wo"], dim, ffn)
        for index in (1, 2):
            yield _whole(f"{there}.norm{index}.weight", f"{here}.{index - 1}.layer_norm.weight", (dim,))
        name = f"{there}.pos_embedding.embedding.weight"
        shape = entries[name].shape if name in entries else (0, 0)
        yield _whole(name, f"{here}.0.SelfAttention.relative_attention_bias.weight", shape)
    yield _whole("norm.weight", "encoder.final_layer_norm.weight", (dim,))


def _clip(entries: Mapping[str, Entry]) -> Iterator[Expected]:
    (dim,), (ffn, _) = (entries[name].shape for name in TOLD_BY["clip"])
    positions, patch = (entries[name].shape if name in entries else (0, 0, 0, 0) for name in
                        ("visual.pos_embedding", "visual.patch_embedding.weight"))  # fmt: skip
    yield _whole("visual.cls_embedding", "embeddings.class_embedding", (1, 1, dim))
    yield _whole("visual.pos_embedding", "embeddings.position_embedding.weight", (1, positions[1], dim))
    yield _whole("visual.patch_embedding.weight", "embeddings.patch_embedding.weight", (dim, 3, *patch[2:]))
    yield from _norm("visual.pre_norm", "pre_layrnorm", dim)
    for number in _numbers(r"visual\.transformer\.(\d{1,9})\.", entries):
        there, here = f"visual.transformer.{number}", f"encoder.layers.{number}"
        qkv = [f"{here}.self_attn.{leaf}_proj" for leaf in "qkv"]
        for theirs, sources, n, k in (
            ("attn.to_qkv", qkv, 3 * dim, dim), ("attn.proj", [f"{here}.self_attn.out_proj"], dim, dim),
            ("mlp.0", [f"{here}.mlp.fc1"], ffn, dim), ("mlp.2", [f"{here}.mlp.fc2"], dim, ffn),
        ):  # fmt: skip
            yield _linear(f"{there}.{theirs}", sources, n, k, theirs == "attn.to_qkv")
            pieces = tuple(Piece(f"{source}.bias", 0, n // len(sources)) for source in sources)
            yield Expected(f"{there}.{theirs}.bias", (n,), pieces)
        for index in (1, 2):
            yield from _norm(f"{there}.norm{index}", f"{here}.layer_norm{index}", dim)
    yield from _norm("visual.post_norm", "post_layernorm", dim)


def _whole(name: str, source: str, shape: tuple[int, ...]) -> Expected:
    return Expected(name, shape, (Piece(source, 0, shape[0]),))


def _norm(name: str, source: str, dim: int) -> Iterator[Expected]:
    for leaf in ("weight", "bias"):
        yield _whole(f"{name}.{leaf}", f"{source}.{leaf}", (dim,))


def _linear(name: str, sources: list[str], n: int, k: int, absorbs: bool = False) -> Linear:
    return Linear(name, (n, k), tuple(Piece(source, 0, n // len(sources)) for source in sources), absorbs)


def _numbers(pattern: str, names: Mapping[str, Entry]) -> range:
    found = (re.match(pattern, name) for name in names)
    numbers = {int(each[1]) for each in found if each}
    return range(max((number for number in numbers if number < MOST_BLOCKS), default=-1) + 1)


KINDS = (
    Kind("models_t5_umt5-xxl-enc", "t5", "text_encoder", torch.bfloat16, _t5),
    Kind("models_clip_open-clip-xlm-roberta-large-vit-huge-14", "clip", "image_encoder", torch.float16, _clip),
)
