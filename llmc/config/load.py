"""From a YAML file and the command line's overrides to a `Config`, or to one error that names every place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from llmc.config.document import read_document
from llmc.config.explain import find_problems, problems_error
from llmc.config.override import apply_overrides
from llmc.config.schema import Config


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read and validate; nothing but the file itself is touched. `check_config` looks at the disk."""
    document = read_document(Path(path))
    apply_overrides(document, overrides)
    source = document.source()
    try:
        return Config.model_validate(document.values, context={"source": source})
    except ValidationError as error:
        raise problems_error(find_problems(error, document.values, Config), source) from None
