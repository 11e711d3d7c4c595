"""Plug-ins from outside: modules that are imported before anything is discovered."""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterable
from pathlib import Path

from llmc.errors import ConfigError


def import_plugins(names: Iterable[str]) -> None:
    """Import modules, or every module of packages, from the current folder or from what is installed."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ConfigError(f"--plugin {name}: this names no module; write one such as my_package.my_module")
        try:
            root = importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"--plugin {name}: {error}; name a module or a package that lies in the current folder or is installed"
            ) from None
        for module in pkgutil.iter_modules(getattr(root, "__path__", []), f"{name}."):
            importlib.import_module(module.name)
