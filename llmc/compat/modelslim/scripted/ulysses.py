"""HunyuanVideo with its tokens spread over ranks (Ulysses, arXiv:2309.14509).

Each rank holds a share of the video's and of the text's tokens. For attention ranks exchange: each gets all tokens of a
share of the heads, in the order of one process, so that masks hold as they are. The network is called with whole
tensors and gives whole tensors; only between its first block and its last projection there are shares.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from math import prod
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from llmc.errors import ConfigError

SUPPORTED = "HunyuanVideoTransformer3DModel"


def spread_tokens(network: nn.Module, degree: int) -> None:
    """Let every later forward of `network` be a common one of all ranks, which give it the same inputs."""
    _check(network, degree)
    exchange = HeadExchange(distributed.get_rank(), degree)
    forward, blocks = network.forward, (*network.transformer_blocks, *network.single_transformer_blocks)  # type: ignore[misc]

    @wraps(forward)  # keeps the names of its arguments for whoever asks
    def exchanging(*args: Any, **kwargs: Any) -> Any:
        exchange.counts = ()
        with exchange:
            return forward(*args, **kwargs)

    def enter_first(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        video, text, *others = args
        exchange.counts = (video.shape[1], text.shape[1])
        return exchange.mine(video), exchange.mine(text), *others

    def enter_block(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        video, text, embedding, mask, *others = args
        streams = mask.split_with_sizes(exchange.counts, -1)
        return video, text, embedding, torch.cat([exchange.mine(stream, -1) for stream in streams], -1), *others

    network.forward = exchanging
    network.rope.register_forward_hook(lambda _, args, tables: tuple(exchange.mine(table, 0) for table in tables))  # type: ignore[union-attr]
    blocks[0].register_forward_pre_hook(enter_first)
    for block in blocks:
        block.register_forward_pre_hook(enter_block)
    network.proj_out.register_forward_hook(lambda _, args, video: exchange.whole(video))  # type: ignore[union-attr]


class HeadExchange(TorchFunctionMode):
    """Attention over tokens that ranks have shares of; other calls, and those outside of the blocks, pass."""

    def __init__(self, rank: int, ranks: int) -> None:
        super().__init__()
        self.rank, self.ranks = rank, ranks
        self.counts: tuple[int, ...] = ()  # of video and text tokens of all ranks; empty outside of the blocks

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not scaled_dot_product_attention or not self.counts:
            return func(*args, **(kwargs or {}))
        return self.attend(*args, **(kwargs or {}))

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: Any
    ) -> Tensor:
        """In place of scaled_dot_product_attention; `attn_mask` says of this rank's tokens who may see them."""
        q, k, v = (self.heads_of_all_tokens(x) for x in (query, key, value))
        if attn_mask is not None:  # a byte each: not every backend sends booleans
            attn_mask = self.in_order([attn_mask.transpose(2, 3).byte()] * self.ranks).transpose(2, 3).bool()
        return self.tokens_of_all_heads(scaled_dot_product_attention(q, k, v, attn_mask, **options))

    def mine(self, tokens: Tensor, dim: int = 1) -> Tensor:
        """This rank's share."""
        return tokens.tensor_split(self.ranks, dim)[self.rank]

    def whole(self, video: Tensor) -> Tensor:
        """The video tokens (batch, tokens, channels) of all ranks."""
        shapes = [(len(video), count, video.shape[-1]) for count in self.shares[0]]
        return torch.cat(self._exchange([video] * self.ranks, shapes), 1)

    def heads_of_all_tokens(self, x: Tensor) -> Tensor:
        """(batch, heads, this rank's tokens, width) -> (batch, this rank's heads, all tokens, width)."""
        return self.in_order(x.chunk(self.ranks, 1))

    def in_order(self, parts: Sequence[Tensor]) -> Tensor:
        """A part (batch, n, this rank's tokens, width) for every rank -> what all sent to this one, as (batch, n, all
        tokens, width): the video's first, then the text's."""
        batch, number, _, width = parts[0].shape
        counts = list(zip(*self.shares, strict=True))  # of each rank: its tokens of video and of text
        found = self._exchange(parts, [(batch, number, sum(own), width) for own in counts])
        streams = zip(*(part.split_with_sizes(own, 2) for part, own in zip(found, counts, strict=True)), strict=True)
        return torch.cat([part for stream in streams for part in stream], 2)

    def tokens_of_all_heads(self, x: Tensor) -> Tensor:
        """The way back."""
        streams = [
            stream.split_with_sizes(share, 2)
            for stream, share in zip(x.split_with_sizes(self.counts, 2), self.shares, strict=True)
        ]
        parts = [torch.cat(parts, 2) for parts in zip(*streams, strict=True)]
        return torch.cat(self._exchange(parts, [tuple(parts[self.rank].shape)] * self.ranks), 1)

    @property
    def shares(self) -> list[list[int]]:
        """How many tokens of each stream each rank has: the first ones have one more where it does not divide."""
        return [
            [count // self.ranks + (rank < count % self.ranks) for rank in range(self.ranks)] for count in self.counts
        ]

    def _exchange(self, parts: Sequence[Tensor], shapes: Sequence[tuple[int, ...]]) -> list[Tensor]:
        """Give every rank its part, and get one of such a shape from each."""
        sent = torch.cat([part.flatten() for part in parts])
        sizes = [prod(shape) for shape in shapes]
        found = sent.new_empty(sum(sizes))
        distributed.all_to_all_single(found, sent, sizes, [part.numel() for part in parts])
        return [part.view(shape) for part, shape in zip(found.split_with_sizes(sizes), shapes, strict=True)]


def _check(network: nn.Module, degree: int) -> None:
    if type(network).__name__ != SUPPORTED:
        raise ConfigError(f"--ulysses-degree spreads a {SUPPORTED}, not a {type(network).__name__}; leave it at 1")
    ranks = distributed.get_world_size() if distributed.is_initialized() else 1
    if degree != ranks:
        raise ConfigError(
            f"--ulysses-degree is {degree}, and {ranks} processes run; they must be as many: start the script with "
            f"`torchrun --nproc_per_node={degree}`, or write --ulysses-degree {ranks}"
        )
    config: Any = network.config
    if config.num_attention_heads % degree:
        heads = config.num_attention_heads
        fitting = ", ".join(str(number) for number in range(1, heads + 1) if heads % number == 0)
        raise ConfigError(
            f"--ulysses-degree is {degree}, and the model has {heads} heads, which must divide among the ranks; "
            f"possible are {fitting}"
        )
    if config.image_condition_type is not None:
        raise ConfigError(
            f"the model reads an image by {config.image_condition_type}, which treats tokens of the first frame by "
            "themselves; spread are models of text alone: leave --ulysses-degree at 1"
        )
