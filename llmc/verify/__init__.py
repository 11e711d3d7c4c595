"""What an export must be, apart from what writes it. The room can be called: `llmc.verify(path, against=run)`."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    """A package that is also the function of its name: importing any part of it makes it an attribute of `llmc`."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        return import_module("llmc.api.verifying").verify(*args, **options)


sys.modules[__name__].__class__ = _Callable
