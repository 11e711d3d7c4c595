"""What MindIE's networks call the tensors of a float model, family by family: the names of the repository that it runs.

Written down from those repositories, apart from the tables that rename a network when it is exported.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

import torch
from torch import Tensor

from llmc.verify.files import Entry
from llmc.verify.wan import Wan, read_wan

# hyvideo's module -> those of diffusers whose rows it has, one below the other
HYVIDEO: Mapping[str, tuple[str, ...]] = {
    "img_in.proj": ("x_embedder.proj",),
    "txt_in.input_embedder": ("context_embedder.proj_in",),
    "txt_in.t_embedder.mlp.0": ("context_embedder.time_text_embed.timestep_embedder.linear_1",),
    "txt_in.t_embedder.mlp.2": ("context_embedder.time_text_embed.timestep_embedder.linear_2",),
    "txt_in.c_embedder.linear_1": ("context_embedder.time_text_embed.text_embedder.linear_1",),
    "txt_in.c_embedder.linear_2": ("context_embedder.time_text_embed.text_embedder.linear_2",),
    "time_in.mlp.0": ("time_text_embed.timestep_embedder.linear_1",),
    "time_in.mlp.2": ("time_text_embed.timestep_embedder.linear_2",),
    "guidance_in.mlp.0": ("time_text_embed.guidance_embedder.linear_1",),
    "guidance_in.mlp.2": ("time_text_embed.guidance_embedder.linear_2",),
    "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
    "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
    "final_layer.linear": ("proj_out",),
}
REFINER: Mapping[str, tuple[str, ...]] = {
    "norm1": ("norm1",),
    "self_attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "self_attn_proj": ("attn.to_out.0",),
    "norm2": ("norm2",),
    "mlp.fc1": ("ff.net.0.proj",),
    "mlp.fc2": ("ff.net.2",),
    "adaLN_modulation.1": ("norm_out.linear",),
}
DOUBLE: Mapping[str, tuple[str, ...]] = {
    "img_mod.linear": ("norm1.linear",),
    "img_attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "img_attn_q_norm": ("attn.norm_q",),
    "img_attn_k_norm": ("attn.norm_k",),
    "img_attn_proj": ("attn.to_out.0",),
    "img_mlp.fc1": ("ff.net.0.proj",),
    "img_mlp.fc2": ("ff.net.2",),
    "txt_mod.linear": ("norm1_context.linear",),
    "txt_attn_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    "txt_attn_q_norm": ("attn.norm_added_q",),
    "txt_attn_k_norm": ("attn.norm_added_k",),
    "txt_attn_proj": ("attn.to_add_out",),
    "txt_mlp.fc1": ("ff_context.net.0.proj",),
    "txt_mlp.fc2": ("ff_context.net.2",),
}
SINGLE: Mapping[str, tuple[str, ...]] = {
    "modulation.linear": ("norm.linear",),
    "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
    "linear2": ("proj_out",),
    "q_norm": ("attn.norm_q",),
    "k_norm": ("attn.norm_k",),
}
HYVIDEO_BLOCKS = {
    "txt_in.individual_token_refiner.blocks": ("context_embedder.token_refiner.refiner_blocks", REFINER),
    "double_blocks": ("transformer_blocks", DOUBLE),
    "single_blocks": ("single_transformer_blocks", SINGLE),
}
HALVES = ("final_layer.adaLN_modulation.1", "norm_out.linear")  # shift first there, scale first in diffusers


@dataclass(frozen=True)
class Piece:
    """Rows of a tensor of the float model."""

    entry: Entry
    start: int
    stop: int
    name: str = ""  # in diffusers, where the float model has another one

    @property
    def module(self) -> str:
        """The module that it belongs to, as a run calls it."""
        return (self.name or self.entry.name).rpartition(".")[0]

    def read(self) -> Tensor:
        """In float32."""
        whole = self.entry.read().float()
        return whole[self.start : self.stop] if whole.dim() else whole


@dataclass(frozen=True)
class Expected:
    """A tensor of MindIE's network: the rows of the float model that it has, in order."""

    pieces: tuple[Piece, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of all of them, one below the other."""
        if not self.pieces[0].entry.shape:
            return ()
        return (sum(piece.stop - piece.start for piece in self.pieces), *self.pieces[0].entry.shape[1:])

    def read(self) -> Tensor:
        """In float32."""
        return torch.cat([piece.read() for piece in self.pieces]) if self.shape else self.pieces[0].read()


def expected_tensors(entries: Mapping[str, Entry], config: Mapping[str, Any]) -> dict[str, Expected] | str:
    """Every tensor by its name in MindIE's network, or why that cannot be told."""
    if any(name.startswith("context_embedder.token_refiner.") for name in entries):
        return dict(_hyvideo(entries))
    if any(name.startswith(("blocks.0.attn1.", "blocks.0.self_attn.")) for name in entries):
        return _wan(entries, config)
    # FLUX.1 and SD3 run in diffusers, Open-Sora-Plan in the names that diffusers took over
    return {name: _whole(entry) for name, entry in entries.items()}


def _whole(*entries: Entry, name: str = "") -> Expected:
    return Expected(tuple(Piece(entry, 0, entry.shape[0] if entry.shape else 1, name) for entry in entries))


def _wan(entries: Mapping[str, Entry], config: Mapping[str, Any]) -> dict[str, Expected] | str:
    wan = read_wan(config)
    if not isinstance(wan, Wan):
        return f"the float model's config.json lacks {', '.join(wan)}"
    natives = {each.diffusers: each.native for each in (*wan.float_tensors(), *wan.optional())}
    natives |= {f"{each.diffusers}.weight": f"{each.native}.weight" for each in wan.linears()}
    if wan.naming == "native":  # a release: its names are MindIE's already
        ours = {native: diffusers for diffusers, native in natives.items()}
        return {name: _whole(entry, name=ours.get(name, name)) for name, entry in entries.items()}
    return {natives.get(name, name): _whole(entry) for name, entry in entries.items()}


def _hyvideo(entries: Mapping[str, Entry]) -> Iterator[tuple[str, Expected]]:
    yield from _assembled(entries, "", "", HYVIDEO)
    for blocks, (theirs, table) in HYVIDEO_BLOCKS.items():
        for number in count():
            found = list(_assembled(entries, f"{blocks}.{number}.", f"{theirs}.{number}.", table))
            if not found:
                break
            yield from found
    for leaf in ("weight", "bias"):
        if (entry := entries.get(f"{HALVES[1]}.{leaf}")) is not None:
            half = entry.shape[0] // 2 if entry.shape else 0
            yield f"{HALVES[0]}.{leaf}", Expected((Piece(entry, half, 2 * half), Piece(entry, 0, half)))


def _assembled(
    entries: Mapping[str, Entry], ours: str, theirs: str, table: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[str, Expected]]:
    for module, sources in table.items():
        for leaf in ("weight", "bias"):
            there = [entries[name] for source in sources if (name := f"{theirs}{source}.{leaf}") in entries]
            alike = len({entry.shape[1:] for entry in there}) == 1 and all(entry.shape for entry in there)
            if len(there) == len(sources) and (alike or len(sources) == 1):
                yield f"{ours}{module}.{leaf}", _whole(*there)
