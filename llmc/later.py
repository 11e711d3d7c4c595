"""Import a heavy module on its first use: settings classes name torch freely, and `llmc list` still answers at once."""

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any


class _Later(ModuleType):
    """Stands in for a module until somebody reads an attribute of it."""

    def __getattr__(self, attribute: str) -> Any:
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        module = importlib.import_module(self.__name__)
        self.__dict__.update(module.__dict__)
        return getattr(module, attribute)


def import_later(*names: str) -> None:
    """Make `import name` free until the module is really used; a module that is already there stays as it is."""
    for name in names:
        if name not in sys.modules:
            later = _Later(name)
            later.__spec__ = importlib.util.find_spec(name)  # libraries ask it whether the module is installed
            sys.modules[name] = later
