"""An attention that is being quantized: what torch's scaled_dot_product_attention is given is put on its grids.

It is seen from outside, whatever the network's processors do before: while the module runs, a mode of torch catches
the call. There the head axis of every network is the second: (batch, heads, tokens, width).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from llmc.errors import AdapterError
from llmc.layers.linear import Mode
from llmc.numerics.attention import quantize_heads, visible
from llmc.numerics.attention_spec import ROLES, AttentionSpec


@dataclass(frozen=True)
class AttentionState:
    """All that calibration decided about one attention."""

    rotation: Tensor | None = None  # (width, width), of queries and keys
    scales: tuple[Tensor, Tensor, Tensor] | None = None  # of q, k and v, (heads,) each; None: measured at run time
    stays_float: bool = False  # its error is above what was allowed


@dataclass(frozen=True)
class AttentionCall:
    """What scaled_dot_product_attention is given: q, k and v as (batch, heads, tokens, width)."""

    q: Tensor
    k: Tensor
    v: Tensor
    mask: Tensor | None
    options: dict[str, Any]
    asks_itself: bool  # queries and keys are of the same tokens

    @property
    def tensors(self) -> tuple[Tensor, Tensor, Tensor]:
        return self.q, self.k, self.v

    def output(self) -> Tensor:
        """What torch makes of it."""
        return scaled_dot_product_attention(*self.tensors, self.mask, **self.options)

    def seen(self) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Which tokens (batch, tokens) of q, k and v count; None: all. Padding is what no query may see; where the
        queries are of the same tokens, theirs of padding are padding too."""
        if self.mask is None:
            return None, None, None
        keys = visible(self.mask, self.k)
        return keys if self.asks_itself else None, keys, keys

    def without_padding(self) -> AttentionCall:
        """The call with zeros in place of padding, which set no scale then; what others read does not change."""
        filled = [x if seen is None else x.masked_fill(~seen[:, None, :, None], 0)
                  for x, seen in zip(self.tensors, self.seen(), strict=True)]  # fmt: skip
        return replace(self, q=filled[0], k=filled[1], v=filled[2])


class QuantAttention:
    """One attention of a network. In `float` mode it runs as it did, to the bit; in `quantized` mode (and in `real`
    mode, since no product of the device is known for it) q, k and v are rounded first; in `transformed` only rotated.
    """

    def __init__(self, name: str, module: nn.Module, spec: AttentionSpec, heads: int, asks_itself: bool) -> None:
        self.name, self.spec, self.heads, self.asks_itself = name, spec, heads, asks_itself
        self.state = AttentionState()
        self.mode: Mode = "float"
        self.watch: Callable[[AttentionCall], None] | None = None  # is shown each call, rotated and without padding
        run = module.forward

        def forward(*args: Any, **kwargs: Any) -> Any:
            if self.mode == "float" and self.watch is None:
                return run(*args, **kwargs)
            with _Tap(self) as tap:
                output = run(*args, **kwargs)
            if not tap.calls:
                raise AdapterError(
                    f"{name} ran, but never called torch's scaled_dot_product_attention, where attention is quantized; "
                    "leave diffusers' attention backend as it is, or exclude this attention"
                )
            return output

        module.forward = forward

    def attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        **options: Any,
    ) -> Tensor:
        """In place of scaled_dot_product_attention, whose arguments it takes by position or by name."""
        for x in (query, key, value):
            if x.ndim != 4 or x.shape[1] != self.heads:
                raise AdapterError(
                    f"{self.name} has {self.heads} heads, and attends with a tensor of the shape {tuple(x.shape)}; "
                    "(batch, heads, tokens, width) is needed to give each head its own scale: exclude this attention"
                )
        options |= {"dropout_p": dropout_p, "is_causal": is_causal}
        call = AttentionCall(query, key, value, attn_mask, options, self.asks_itself)
        if self.watch is not None:
            self.watch(self.rotated(call).without_padding())
        if self.mode == "float" or self.state.stays_float:
            return call.output()
        call = self.rotated(call)
        return call.output() if self.mode == "transformed" else self.quantized(call.without_padding()).output()

    def rotated(self, call: AttentionCall) -> AttentionCall:
        """Queries and keys in the basis that they are rounded in."""
        if self.state.rotation is None:
            return call
        rotation = self.state.rotation.to(call.q.dtype)
        return replace(call, q=call.q @ rotation, k=call.k @ rotation)

    def quantized(self, call: AttentionCall) -> AttentionCall:
        """The call as a kernel computes it."""
        scales = self.state.scales or (None, None, None)
        q, k, v = (quantize_heads(x, role, self.spec, scale)
                   for x, role, scale in zip(call.tensors, ROLES, scales, strict=True))  # fmt: skip
        return replace(call, q=q, k=k, v=v)


class _Tap(TorchFunctionMode):
    """Sends what the module gives to scaled_dot_product_attention through its QuantAttention."""

    def __init__(self, attention: QuantAttention) -> None:
        super().__init__()
        self.attention, self.calls = attention, 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is not scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        self.calls += 1
        return self.attention.attend(*args, **(kwargs or {}))


@contextmanager
def watched(
    attentions: Iterable[QuantAttention], watch: Callable[[QuantAttention, AttentionCall], None]
) -> Iterator[None]:
    """Show every call of some attentions to `watch` while the body runs."""

    def looks_at(attention: QuantAttention) -> Callable[[AttentionCall], None]:
        return lambda call: watch(attention, call)

    with ExitStack() as stack:
        for attention in attentions:
            attention.watch = looks_at(attention)
            stack.callback(setattr, attention, "watch", None)
        yield
