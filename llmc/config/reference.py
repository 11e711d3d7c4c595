"""Writes docs/config.md from the fields themselves: `python -m llmc.config.reference > docs/config.md`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from llmc.algorithms.base import Algorithm
from llmc.config.bases import MAX_DEEP, MAX_FILES
from llmc.config.document import MAX_BYTES, MAX_WRITTEN
from llmc.config.explain import section_classes
from llmc.config.schema import Config
from llmc.eval.metrics.base import Metric
from llmc.export.base import Exporter
from llmc.models.base import ModelAdapter
from llmc.numerics.formats.base import Format
from llmc.plugin import Plugin, Strict, discover

HEAD = f"""# Configuration reference

Generated from the fields by `python -m llmc.config.reference > docs/config.md`; a test asserts that it is current.

A configuration is one YAML file, of at most {MAX_BYTES} bytes and {MAX_WRITTEN} keys and values. Unknown keys are
refused. A value can be replaced on the command line with `--set key.key=value`. Input paths are looked for in the
current folder, then from the repository's `scripts/` (where LLMC is run from), then beside the file, then in the
repository itself (where llmc is installed: among what ships with it); output paths are relative to the current folder.

## `base`: built on other files

```yaml
base: [recipes/int8_smoothquant.yaml, models/wan_i2v.yaml, targets/lightx2v.yaml]
model: {{path: /path/to/Wan2.1-I2V-14B-480P-Diffusers}}
save: {{path: /path/to/export}}
```

`base` names the files that a configuration is built on: one, or a list. Each is read with those that it is itself built
on; they are merged in order, and the file's own keys come last. Sections are merged key by key; anything else, a list
too, is replaced by what comes later, and `null` replaces as well. A path is looked for beside the file that names it,
then among what ships: `configs/recipes/` (methods and grids), `configs/models/` (a model, its samples and its sizes)
and `configs/targets/` (what is written). A file that is built on others, and has settings of the whole run, too, writes
`base: {{files: [...], seed: 7}}`. At most {MAX_DEEP} files are built on one another, and at most {MAX_FILES} are read.
Errors name the line of the file where a value was written; `llmc check --resolved FILE` prints the whole.
"""


def reference() -> str:
    """The whole page."""
    pages = [HEAD, *_sections("", Config)]
    for kind, plugins in plugin_kinds().items():
        pages.append(f"## {kind.capitalize()}\n\n{''.join(_plugin(name, cls) for name, cls in plugins.items())}")
    return "\n".join(pages)


def plugin_kinds() -> dict[str, Mapping[str, type[Plugin]]]:
    """Every plug-in of every kind, by name."""
    return {
        "algorithms": discover("llmc.algorithms", Algorithm),
        "formats": discover("llmc.numerics.formats", Format),
        "models": discover("llmc.models", ModelAdapter),
        "exporters": discover("llmc.export", Exporter),
        "metrics": discover("llmc.eval.metrics", Metric),
    }


def _sections(path: str, cls: type[Strict], seen: set[type[Strict]] | None = None) -> Iterator[str]:
    seen = set() if seen is None else seen
    if cls in seen:  # the grids of a rule are those of the section above
        return
    seen.add(cls)
    inner = {name: _own_sections(field) for name, field in cls.model_fields.items()}
    rows = [_row(name, field) for name, field in cls.model_fields.items() if path or not inner[name]]
    if rows:
        yield f"## `{path}`\n\n{_summary(cls)}\n\n{_table(rows)}"
    for name, classes in inner.items():
        for section in classes:
            yield from _sections(f"{path}.{name}" if path else name, section, seen)


def _own_sections(field: FieldInfo) -> list[type[Strict]]:
    return [cls for cls in section_classes(field.annotation) if not issubclass(cls, Plugin)]


def _plugin(name: str, cls: type[Plugin]) -> str:
    rows = [_row(key, field) for key, field in cls.model_fields.items() if key != "name"]
    return f"- `{name}`: {cls.summary()}\n" + (f"\n{_table(rows)}\n" if rows else "")


def _table(rows: list[str]) -> str:
    return "\n".join(["| key | values | default | meaning |", "|---|---|---|---|", *rows]) + "\n"


def _row(name: str, field: FieldInfo) -> str:
    default = "required" if field.is_required() else f"`{_value(field.default)}`"
    cells = [f"`{name}`", _values(field.annotation) + _range(field), default, field.description or ""]
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _values(annotation: Any) -> str:
    """The type in a reader's words."""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{word}`" for word in get_args(annotation))
    if get_origin(annotation) is tuple:
        return f"list of {_values(get_args(annotation)[0])}"
    if isinstance(annotation, type) and issubclass(annotation, Plugin):
        return "plug-in"
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        return "section"
    inner = [argument for argument in get_args(annotation) if argument is not type(None)]
    if hasattr(annotation, "__metadata__"):
        return _values(inner[0])
    if inner and get_origin(annotation) is not dict:
        return " or ".join(dict.fromkeys(_values(argument) for argument in inner))
    return _WORDS.get(getattr(annotation, "__name__", ""), "section")


_WORDS = {"int": "integer", "float": "number", "bool": "True or False", "str": "text", "Path": "path"}


def _range(field: FieldInfo) -> str:
    limits = {"ge": "at least", "gt": "above", "le": "at most"}
    said = [
        f"{text} {getattr(rule, key)}" for rule in _rules(field) for key, text in limits.items() if hasattr(rule, key)
    ]
    return f", {', '.join(said)}" if said else ""


def _rules(field: FieldInfo) -> Iterator[Any]:
    """What is asked of a value, or of one that may be left out."""
    yield from field.metadata
    given = [argument for argument in get_args(field.annotation) if argument is not type(None)]
    for rule in getattr(given[0], "__metadata__", ()) if len(given) == 1 else ():
        yield from rule.metadata if isinstance(rule, FieldInfo) else [rule]


def _value(default: Any) -> str:
    if default is None:
        return "null"
    if isinstance(default, tuple):
        return f"[{', '.join(map(_value, default))}]"
    return "{}" if isinstance(default, Strict | dict) else str(default)


def _summary(cls: type[Strict]) -> str:
    return (cls.__doc__ or "").strip().splitlines()[0]


if __name__ == "__main__":
    print(reference(), end="")
