"""The good configuration of `tests/config`, to spoil."""

from tests.config.conftest import good, load, write  # noqa: F401
