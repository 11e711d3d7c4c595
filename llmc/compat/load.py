"""From a YAML file and the command line's overrides to a `Config`, or to one error that names every place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from llmc.compat.llmc.words import take_words
from llmc.compat.modelslim import is_dialect
from llmc.config.document import Document, read_document
from llmc.config.explain import find_problems, problems_error
from llmc.config.family import adapter_for, is_family
from llmc.config.override import apply_overrides
from llmc.config.paths import input_of
from llmc.config.schema import Config


def load_document(path: Path | str, overrides: Sequence[str] = ()) -> Document:
    """The plain values of a file in our words, msModelSlim's and LLMC's translated; a family's name became an
    adapter's."""
    return in_our_words(read_document(Path(path)), overrides)


def in_our_words(document: Document, overrides: Sequence[str] = ()) -> Document:
    """A document whose values are in our words, whoever wrote them, with what replaces them put in."""
    if is_dialect(document):
        from llmc.compat.modelslim.translate import translated

        document = translated(document, overrides)
    else:
        apply_overrides(document, overrides)
        take_words(document)
    model = document.values.get("model")
    if isinstance(model, dict) and is_family(model.get("type")) and isinstance(model.get("path"), str):
        model["type"] = adapter_for(model["type"], input_of(model["path"], "model.path", document.path.parent))
    return document


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> Config:
    """Read and validate; nothing but the file itself is touched. `check_config` looks at the disk."""
    return config_of(load_document(path, overrides))


def config_of(document: Document) -> Config:
    """The values, validated."""
    source = document.source()
    try:
        return Config.model_validate(document.values, context={"source": source})
    except ValidationError as error:
        raise problems_error(find_problems(error, document.values, Config), source) from None
