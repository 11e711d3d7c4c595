"""From a YAML file and the command line's overrides to a `Config`, or to one error that names every place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from llmc.compat.flat_save import save_by_target
from llmc.compat.llmc.words import take_words
from llmc.compat.modelslim import is_dialect
from llmc.config.bases import on_its_bases
from llmc.config.document import Document, read_document
from llmc.config.explain import find_problems, problems_error
from llmc.config.family import adapter_for, is_family
from llmc.config.override import apply_overrides
from llmc.config.paths import config_file, input_of
from llmc.config.schema import Config
from llmc.errors import ConfigError


def load_document(path: Path | str, overrides: Sequence[str] = ()) -> Document:
    """The plain values of a file in our words, with those that it is built on, msModelSlim's and LLMC's translated; a
    family's name became an adapter's."""
    return in_our_words(read_document(config_file(Path(path))), overrides)


def in_our_words(document: Document, overrides: Sequence[str] = ()) -> Document:
    """A document whose values are in our words, whoever wrote them, with what replaces them put in."""
    if is_dialect(document):
        from llmc.compat.modelslim.translate import translated

        document = translated(document, overrides)
    else:
        document = on_its_bases(document, _by_target)
        apply_overrides(document, overrides)
        save_by_target(document, complete=True)
        take_words(document)
    model = document.values.get("model")
    if isinstance(model, dict) and is_family(model.get("type")) and isinstance(model.get("path"), str):
        model["type"] = adapter_for(model["type"], input_of(model["path"], "model.path", document.source().folders))
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


def _by_target(document: Document) -> None:
    """What one file says of `save`, before it is merged with others: what comes later is later in any spelling."""
    if is_dialect(document):
        raise ConfigError(
            f"{document.path} is in msModelSlim's dialect, on which no file can be built; write it out as llmc's own: "
            f"llmc check --translate {document.path} --model_path FOLDER --save_path FOLDER"
        )
    save_by_target(document)
