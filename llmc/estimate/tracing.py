"""Code that runs on tensors without values, so that what it would hold and compute can be counted.

Tensors lie on the meta device: those that stand for a device's own, and those that stand for the host's, which
are what was brought there from them. Where code asks for a value it is given one that lets it go on: a half, 0, or yes.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


@dataclass
class Traced:
    """Bytes held now and at most since they were last forgotten, on the device and on the host, and operations."""

    held: int = 0
    peak: int = 0
    host: int = 0
    host_peak: int = 0
    flops: int = 0
    places: dict[int, bool] = field(default_factory=dict)  # storage -> whether it is the host's

    def forget(self) -> None:
        """Count peaks and operations from here on."""
        self.peak, self.host_peak, self.flops = self.held, self.host, 0

    def note(self, tensor: Tensor, on_host: bool) -> None:
        """A tensor that came out of something; one that shares its storage with another takes no more."""
        storage, key = tensor.untyped_storage(), _storage_of(tensor)
        size = storage.nbytes()
        if key in self.places:
            return
        self.places[key] = on_host
        self._add(size, on_host)
        weakref.finalize(storage, self._gone, key, size)

    def is_on_host(self, tensor: Tensor) -> bool:
        return self.places.get(_storage_of(tensor), False)

    def _gone(self, key: int, size: int) -> None:
        self._add(-size, self.places.pop(key))

    def _add(self, size: int, on_host: bool) -> None:
        if on_host:
            self.host += size
            self.host_peak = max(self.host, self.host_peak)
        else:
            self.held += size
            self.peak = max(self.held, self.peak)


@contextmanager
def traced(fused: bool = True) -> Iterator[Traced]:
    """Count what the body makes; attention is `fused` where no more is held than what goes in and comes out."""
    found = Traced()
    stand_ins = {**STAND_INS, **({scaled_dot_product_attention: _attention} if fused else {})}
    with ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(_Counting(found))
        stack.enter_context(_Answering(found, stand_ins))
        yield found


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes what operators give, and gives numbers in place of values that are not there."""

    def __init__(self, found: Traced) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found = found

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return _number(args[0].dtype)
        output = func(*args, **kwargs)
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.found.flops += count(*args, **kwargs, out_val=output)
        on_host = self._reads_host(args)
        read = {_storage_of(arg) for arg in args if _is_meta(arg)}  # a view of a weight is no more than the weight
        for tensor in [output] if isinstance(output, Tensor) else tree_leaves(output):
            if _is_meta(tensor) and _storage_of(tensor) not in read:
                self.found.note(tensor, on_host)
        return output

    def _reads_host(self, args: Any) -> bool:
        """Whether an operator works on the host: where its first tensor is."""
        if self.found.host == 0:
            return False
        first = args[0] if args else None
        if isinstance(first, list | tuple) and first:
            first = first[0]
        return isinstance(first, Tensor) and self.found.is_on_host(first)


class _Answering(TorchFunctionMode):
    """Stands for functions that need values, or that would take another way on a real device."""

    def __init__(self, found: Traced, stand_ins: Mapping[Any, Callable[..., Any]]) -> None:
        super().__init__()
        self.found, self.stand_ins = found, stand_ins

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        stand_in = self.stand_ins.get(func)
        if stand_in is None or not any(map(_is_meta, [*args, *kwargs.values()])):
            return func(*args, **kwargs)
        return stand_in(self.found, func, *args, **kwargs)


def _storage_of(tensor: Tensor) -> int:
    """What tells the memory of a tensor from that of others."""
    found: int = tensor.untyped_storage()._cdata
    return found


def _is_meta(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta


def _attention(found: Traced, func: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    """As a kernel does it that never holds the scores of all tokens."""
    rows = prod(query.shape[:-1])
    found.flops += 2 * rows * key.shape[-2] * (query.shape[-1] + value.shape[-1])
    return query.new_empty(*query.shape[:-1], value.shape[-1])


def _cpu(found: Traced, func: Any, tensor: Tensor, *_: Any, **__: Any) -> Tensor:
    return tensor if found.is_on_host(tensor) else _brought(found, tensor, True)


def _to(found: Traced, func: Any, tensor: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Between device and host; all else is as it is."""
    if not tensor.is_meta:
        brought: Tensor = func(tensor, *args, **kwargs)  # made from values, such as those of a setting
        return brought
    dtype = kwargs.get("dtype", next((each for each in args if isinstance(each, torch.dtype)), tensor.dtype))
    where = kwargs.get("device", args[0] if args else None)
    to_host = found.is_on_host(tensor)
    if isinstance(where, Tensor):
        to_host, dtype = found.is_on_host(where), where.dtype
    elif isinstance(where, torch.device | str):
        to_host = torch.device(where).type == "cpu"
    if to_host != found.is_on_host(tensor) or kwargs.get("copy"):
        tensor = _brought(found, tensor, to_host)
    moved: Tensor = func(tensor, dtype)
    return moved


def _brought(found: Traced, tensor: Tensor, to_host: bool) -> Tensor:
    with torch._C._DisableTorchDispatch():
        moved = torch.empty_like(tensor)
    found.note(moved, to_host)
    return moved


def _tolist(found: Traced, func: Any, tensor: Tensor) -> Any:
    return torch.full(tensor.shape, _number(tensor.dtype), device="cpu").tolist()


def _differs(found: Traced, func: Any, *_: Any, **__: Any) -> bool:
    return False


def _same(found: Traced, func: Any, tensor: Tensor, *_: Any, **__: Any) -> Tensor:
    return tensor


def _number(dtype: torch.dtype) -> float | int | bool:
    if dtype == torch.bool:
        return True
    return 0.5 if dtype.is_floating_point else 0


STAND_INS: Mapping[Any, Callable[..., Any]] = {
    torch.Tensor.cpu: _cpu,
    torch.Tensor.to: _to,
    torch.Tensor.tolist: _tolist,
    torch.Tensor.pin_memory: _same,
    torch.equal: _differs,
    torch.Tensor.equal: _differs,
}
