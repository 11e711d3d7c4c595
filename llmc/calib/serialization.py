"""Nested values as json and a table of tensors: dataclasses and settings by the names of their classes.

A class is looked up among the modules that are loaded, and nothing is imported or run for it.
"""

from __future__ import annotations

import sys
from dataclasses import fields, is_dataclass
from math import isfinite
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor


class Packer:
    """Takes values apart; a tensor that is there twice, as a transform of several layers is, is kept once."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self._name_of: dict[tuple[Any, ...], str] = {}
        self._alive: list[Tensor] = []  # so that no address is given to another tensor

    def pack(self, value: Any) -> Any:
        """The value as json; a TypeError names what cannot be."""
        match value:
            case float() if not isfinite(value):  # json has no words for them
                return {"float": str(value)}
            case None | bool() | int() | float() | str():
                return value
            case Tensor():
                # products round otherwise in another layout
                by_column = value.ndim == 2 and not value.is_contiguous() and value.T.is_contiguous()
                kept = self._kept(value.T if by_column else value)
                return {"tensor": kept, "by_column": by_column, "on_host": value.is_cpu}
            case tuple() | list():
                return {type(value).__name__: [self.pack(item) for item in value]}
            case dict():
                return {"dict": [[self.pack(key), self.pack(item)] for key, item in value.items()]}
            case BaseModel():
                return {"settings": _name(value), "fields": value.model_dump(mode="json")}
        if is_dataclass(value):
            inside = {field.name: self.pack(getattr(value, field.name)) for field in fields(value)}
            return {"class": _name(value), "fields": inside}
        raise TypeError(f"a {type(value).__name__} is neither a dataclass nor a plain value")

    def _kept(self, tensor: Tensor) -> str:
        key = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype, tensor.device)
        if key not in self._name_of:
            self._alive.append(tensor)
            self._name_of[key] = str(len(self.tensors))
            host = tensor.detach().to("cpu").contiguous()
            alone = host.untyped_storage().nbytes() == host.nbytes
            taken = any(host.data_ptr() == other.data_ptr() for other in self.tensors.values())
            self.tensors[self._name_of[key]] = host if alone and not taken else host.clone()
        return self._name_of[key]


def unpack(packed: Any, tensors: dict[str, Tensor], device: torch.device | str = "cpu") -> Any:
    """The value again; a ValueError names a class that is not there. Tensors that were on a device go to this one."""
    match packed:
        case {"tensor": name, "by_column": by_column, "on_host": on_host}:
            tensor = tensors[name] if on_host else tensors[name].to(device)
            return tensor.T if by_column else tensor
        case {"float": text}:
            return float(text)
        case {"tuple": items}:
            return tuple(unpack(item, tensors, device) for item in items)
        case {"list": items}:
            return [unpack(item, tensors, device) for item in items]
        case {"dict": items}:
            return {unpack(key, tensors, device): unpack(item, tensors, device) for key, item in items}
        case {"settings": name, "fields": inside}:
            return _class(name, BaseModel).model_validate(inside)
        case {"class": name, "fields": inside}:
            return _class(name)(**{key: unpack(item, tensors, device) for key, item in inside.items()})
    return packed


def _name(value: object) -> str:
    kind = type(value)
    if _found(f"{kind.__module__}:{kind.__qualname__}") is not kind:
        raise TypeError(f"{kind.__qualname__} is not to be found by name in {kind.__module__}")
    return f"{kind.__module__}:{kind.__qualname__}"


def _class(name: str, base: type = object) -> Any:
    found = _found(name)
    if not (isinstance(found, type) and issubclass(found, base) and (base is not object or is_dataclass(found))):
        raise ValueError(f"no class of the name {name} is loaded")
    return found


def _found(name: str) -> object:
    module, _, kind = name.partition(":")
    return getattr(sys.modules.get(module), kind, None)
