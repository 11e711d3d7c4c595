"""LightX2V's UMT5 and the image half of CLIP: modules that take exactly their own names, told from names and shapes."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import torch

from llmc.errors import ExportError
from llmc.files.numbers import MOST_BLOCKS
from llmc.files.state_dict import Unreadable, load_saved, named_tensors
from llmc.verify.file_rules import resolved
from llmc.verify.files import Entry, TensorFile, open_tensor_file
from llmc.verify.layered import Layered
from llmc.verify.layered_rules import LayeredRules, layered_verdicts
from llmc.verify.listed import Listed, stacked
from llmc.verify.network import Export
from llmc.verify.sources import Sources
from llmc.verify.verdict import Checked, Finding, Verdict
from llmc.verify.wan import Expected, Linear, both

LEAVES = {"weight": "weight", "weight_scale": "weight_scale"}
SUFFIXES = (".pth", ".safetensors")


@dataclass(frozen=True)
class Kind:
    """One of the two: how its files begin, its keys in the runtime JSON, and its part of the pipeline."""

    stem: str
    key: str
    part: str
    dtype: torch.dtype  # of everything but codes and scales
    describe: Callable[[Mapping[str, Entry]], Iterator[Expected]]


@dataclass(frozen=True, kw_only=True)
class EncoderFile(Layered):
    """One file."""

    kind: Kind

    @cached_property
    def described(self) -> Listed | list[str]:
        axes = TOLD_BY[self.kind.key]
        if odd := [name for name, count in axes.items() if len(self._shape(name)) != count]:
            return [f"the sizes, which are those of {', '.join(odd)},"]
        tensors = tuple(self.kind.describe(self.entries))
        blocks = {each.native.rpartition("attn.")[0] for each in tensors if isinstance(each, Linear)}
        return Listed("native", self._shape(next(iter(axes)))[-1], len(blocks - {""}), tensors)

    def _shape(self, name: str) -> tuple[int, ...]:
        return self.entries[name].shape if name in self.entries else ()


def encoder_verdicts(export: Export, sources: Sources) -> Iterator[Verdict]:
    """Every rule, on every encoder below the export."""
    for kind in KINDS:
        for path in sorted(export.folder.glob(f"*/{kind.stem}*")):
            if path.suffix in SUFFIXES:
                network = EncoderFile(
                    folder=path.parent, label=path.relative_to(export.folder).as_posix(), files=(_open(path),),
                    config=None, runtime=None, scheme=None, part=kind.part, leaves=LEAVES, kind=kind,
                )  # fmt: skip
                own: LayeredRules = {
                    "runtime JSON": partial(_is_named, export, kind),
                    "one type": partial(_is_of_one_type, kind),
                }
                yield from layered_verdicts(network, own, sources)


def _is_named(export: Export, kind: Kind, network: Layered) -> Finding:
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


def _is_of_one_type(kind: Kind, network: Layered) -> Finding:
    """All that is neither codes nor scales has the type in which LightX2V runs the encoder."""
    dtype = str(kind.dtype).removeprefix("torch.")
    wrong = [each.native for each in network.float_tensors() if each.native != "log_scale"
             and (entry := network.find(each)) is not None and entry.dtype != kind.dtype]  # fmt: skip
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
    yield Expected("token_embedding.weight", "shared.weight", embedding)
    for number in _numbers(r"blocks\.(\d{1,9})\.", entries):
        there, here = f"blocks.{number}", f"encoder.block.{number}.layer"
        for leaf in "qkv":
            rows = {f"{here}.0.SelfAttention.{leaf}": inner}
            yield from stacked("native", f"{there}.attn.{leaf}", rows, dim, carries=leaf == "v", bias=False)
        yield from stacked("native", f"{there}.attn.o", {f"{here}.0.SelfAttention.o": dim}, inner, bias=False)
        for theirs, leaf in (("gate.0", "wi_0"), ("fc1", "wi_1")):  # the gate multiplies what wi_1 gives
            rows = {f"{here}.1.DenseReluDense.{leaf}": ffn}
            yield from stacked("native", f"{there}.ffn.{theirs}", rows, dim, carries=leaf == "wi_1", bias=False)
        yield from stacked("native", f"{there}.ffn.fc2", {f"{here}.1.DenseReluDense.wo": dim}, ffn, bias=False)
        for index in (1, 2):
            yield Expected(f"{there}.norm{index}.weight", f"{here}.{index - 1}.layer_norm.weight", (dim,))
        bias = f"{here}.0.SelfAttention.relative_attention_bias.weight"
        yield Expected(f"{there}.pos_embedding.embedding.weight", bias, ("distances", "heads"))
    yield Expected("norm.weight", "encoder.final_layer_norm.weight", (dim,))


def _clip(entries: Mapping[str, Entry]) -> Iterator[Expected]:
    (dim,), (ffn, _) = (entries[name].shape for name in TOLD_BY["clip"])
    yield Expected("visual.cls_embedding", "embeddings.class_embedding", (1, 1, dim))
    yield Expected("visual.pos_embedding", "embeddings.position_embedding.weight", (1, "positions", dim))
    patch = "embeddings.patch_embedding.weight"
    yield Expected("visual.patch_embedding.weight", patch, (dim, 3, "patch", "patch"))
    yield from both("visual.pre_norm", "pre_layrnorm", (dim,))
    for number in _numbers(r"visual\.transformer\.(\d{1,9})\.", entries):
        there, here = f"visual.transformer.{number}", f"encoder.layers.{number}"
        qkv = {f"{here}.self_attn.{leaf}_proj": dim for leaf in "qkv"}
        yield from stacked("native", f"{there}.attn.to_qkv", qkv, dim, carries=True)
        yield from stacked("native", f"{there}.attn.proj", {f"{here}.self_attn.out_proj": dim}, dim)
        yield from stacked("native", f"{there}.mlp.0", {f"{here}.mlp.fc1": ffn}, dim)
        yield from stacked("native", f"{there}.mlp.2", {f"{here}.mlp.fc2": dim}, ffn)
        for index in (1, 2):
            yield from both(f"{there}.norm{index}", f"{here}.layer_norm{index}", (dim,))
    yield from both("visual.post_norm", "post_layernorm", (dim,))
    yield Expected("visual.head", "visual.head", (dim, "embedding"))  # these two are asked for, and read by nobody
    yield Expected("log_scale", "log_scale", ())


def _numbers(pattern: str, names: Mapping[str, Entry]) -> range:
    found = (re.match(pattern, name) for name in names)
    numbers = {int(each[1]) for each in found if each}
    return range(max((number for number in numbers if number < MOST_BLOCKS), default=-1) + 1)


KINDS = (
    Kind("models_t5_umt5-xxl-enc", "t5", "text_encoder", torch.bfloat16, _t5),
    Kind("models_clip_open-clip-xlm-roberta-large-vit-huge-14", "clip", "image_encoder", torch.float16, _clip),
)
