"""Where lies what ships beside the code: the folders `configs` and `assets`."""

from pathlib import Path

PACKAGED = Path(__file__).parent / "_data"  # a wheel has them here, see setup.py


def shipped() -> Path:
    """The folder that holds `configs` and `assets`: in the installed package, or else the repository."""
    return PACKAGED if PACKAGED.is_dir() else PACKAGED.parents[1]
