"""A file in msModelSlim's dialect as a document of ours: plain values, each with its line in the file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic import ValidationError

from llmc.compat.flat_save import save_by_target
from llmc.compat.modelslim.attention import attention_section
from llmc.compat.modelslim.calibration import calib_section
from llmc.compat.modelslim.match import attentions_of, layers_of
from llmc.compat.modelslim.processors import flat, processor_problems, quant_section
from llmc.compat.modelslim.schema import Dialect, Spec
from llmc.config.document import Document, KeyPath
from llmc.config.explain import find_problems, problems_error
from llmc.config.family import adapter_for
from llmc.config.override import apply_overrides
from llmc.config.paths import input_of
from llmc.errors import ConfigError
from llmc.models.base import adapters, check_adapter
from llmc.section import Section

NEEDED = {"model": ("path", "--model_path"), "save": ("path", "--save_path")}


def translated(document: Document, overrides: Sequence[str]) -> Document:
    """What the dialect asks for, as a document of ours. It names no model and no folder to write to: overrides do."""
    theirs = tuple(f"{key}." for key in Dialect.model_fields)
    apply_overrides(document, [text for text in overrides if text.startswith(theirs)])
    ours = [text for text in overrides if not text.startswith(theirs)]
    beside = Document(document.path, {}, {})
    apply_overrides(beside, ours)
    save_by_target(beside)
    dialect = read_dialect(document)
    require_paths(beside)
    folder = input_of(beside.values["model"]["path"], "model.path", [document.path.parent])
    name = adapter_for(beside.values["model"].get("type"), folder)
    adapter = adapters()[name]
    check_adapter(adapter, folder)

    processors = list(flat(dialect.spec.process, ("spec", "process")))
    calib = calib_section(dialect.spec, adapter, name)
    problems = [*calib.problems, *(p for keys, processor in processors for p in processor_problems(keys, processor))]
    if problems:
        raise problems_error(problems, document.source())
    parts = adapter.model_validate({}).skeleton(folder)
    quant = quant_section(processors, layers_of(adapter, parts), dialect.spec)
    attention = attention_section(processors, attentions_of(adapter, parts))
    if problems := [*quant.problems, *attention.problems]:
        raise problems_error(problems, document.source())
    if attention.values:
        quant.values["attention"] = attention.values
        quant.save |= attention.save

    values = {
        "model": {"type": name},
        "calib": calib.values,
        "quant": {Section.VIDEO_GEN.value: quant.values},
        "save": {"mindie": quant.save},
    }
    sources: dict[KeyPath, KeyPath] = {
        ("calib",): ("spec", "multimodal_sd_config"),
        ("save",): ("spec", "save"),
        **{("calib", *keys): place for keys, place in calib.sources.items()},
        **{("quant", Section.VIDEO_GEN.value, *keys): place for keys, place in quant.sources.items()},
        **{("quant", Section.VIDEO_GEN.value, "attention", *keys): place for keys, place in attention.sources.items()},
    }
    source = document.source()
    places = {keys: source.where(place) for keys, place in sources.items()}
    notes = [*calib.notes, *quant.notes, *attention.notes, *_save_notes(dialect.spec)]
    result = Document(document.path, values, places, notes)
    apply_overrides(result, ours)
    save_by_target(result, complete=True)
    return result


def read_dialect(document: Document) -> Dialect:
    """The file, validated."""
    values = {key: value for key, value in document.values.items() if not _is_definition(key, value, document)}
    try:
        return Dialect.model_validate(values)
    except ValidationError as error:
        raise problems_error(find_problems(error, values, Dialect), document.source()) from None


def require_paths(beside: Document) -> None:
    """Refuse a file that nobody said a model and an output folder to."""
    sections = {name: beside.values.get(name) for name in NEEDED}
    missing = [
        option for name, (key, option) in NEEDED.items()
        if not (isinstance(given := sections[name], dict) and isinstance(given.get(key), str) and given[key])
    ]  # fmt: skip
    if missing:
        raise ConfigError(
            f"{beside.path}: it is in msModelSlim's dialect, which names no model and no folder to write to; add "
            + " and ".join(f"`{option} FOLDER`" for option in missing)
        )


def _save_notes(spec: Spec) -> Iterator[str]:
    if "part_file_size" not in spec.save[0].model_fields_set:
        yield "part_file_size is not given: one file is written, since MindIE-SD reads no parts"


def _is_definition(key: str, value: Any, document: Document) -> bool:
    """Whether a key at the top only carries an anchor: what stands there stands in `spec` too."""
    return (
        key not in Dialect.model_fields
        and isinstance(value, dict | list)
        and any(value == found for found in _everything(document.values.get("spec")))
    )


def _everything(value: Any) -> Iterator[Any]:
    yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _everything(inner)
