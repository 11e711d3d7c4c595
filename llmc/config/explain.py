"""What pydantic found wrong, said in the words of the YAML: place, key, what was found, what is allowed, what to do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from llmc.config.document import KeyPath, Source
from llmc.config.words import LONGEST, choice, shown
from llmc.errors import ConfigError
from llmc.log import one_line, shortened
from llmc.plugin import Strict

MOST = 10  # problems shown at once
EXPLAINED = 100  # problems that are looked at closely: all that can be shown, and the rest is counted


@dataclass(frozen=True)
class Problem:
    """One thing to mend, tied to the key where it is mended; `text` goes on after the key's name."""

    keys: KeyPath
    text: str


def problems_error(problems: Sequence[Problem], source: Source | None, name: str = "the configuration") -> ConfigError:
    """All problems in one message, each with its place."""
    lines = list(dict.fromkeys(_line(problem, source) for problem in problems))
    if len(lines) == 1:
        return ConfigError(lines[0])
    more = [f"... and {len(lines) - MOST} more"] if len(lines) > MOST else []
    return ConfigError(
        "\n  ".join([f"{source.path if source else name} has {len(lines)} problems:", *lines[:MOST], *more])
    )


def find_problems(error: ValidationError, values: Any, root: type[Strict]) -> list[Problem]:
    """The errors of pydantic as problems; those of one value's alternatives become one problem."""
    details = [(_keys_of(detail, values), detail) for detail in error.errors(include_url=False)]
    # a value that was meant as one alternative, and is wrong inside, need not hear of the other alternatives
    outer_keys, outer_locs = _starts(keys for keys, _ in details), _starts(detail["loc"] for _, detail in details)
    details = [(keys, detail) for keys, detail in details if keys not in outer_keys and detail["loc"] not in outer_locs]
    found: dict[KeyPath, dict[str, None]] = {}
    for number, (keys, detail) in enumerate(details):
        needed = _needed(keys, detail, root) if number < EXPLAINED else detail["msg"]
        found.setdefault(keys, {})[needed] = None
    inputs = {keys: _found(detail) for keys, detail in details}
    return [Problem(keys, inputs[keys] + ", or ".join(needed)) for keys, needed in found.items()]


def _starts(paths: Iterable[KeyPath]) -> set[KeyPath]:
    """What the paths lead through, without their ends."""
    starts: set[KeyPath] = set()
    for path in paths:
        starts.update(path[:length] for length in range(len(path)))
    return starts


def _line(problem: Problem, source: Source | None) -> str:
    steps = source.said(problem.keys) if source else problem.keys
    key = ".".join(one_line(str(step), LONGEST) for step in steps)
    place = f"{source.where(problem.keys)}: " if source else ""
    text = shortened(problem.text)
    return f"{place}{key}: {text}" if key else f"{place}{text}"


def _keys_of(detail: ErrorDetails, values: Any) -> KeyPath:
    """The path in the YAML; pydantic's has the names of alternatives in it, and knows no `special`."""
    keys: KeyPath = ()
    for step in detail["loc"]:
        if not _has(values, step):
            continue
        special = values.get("special") if step == "method" and isinstance(values["method"], str) else None
        setting = next((s for s in detail["loc"] if _has(special, s)), None)
        if setting is not None:
            return (*keys, "special", setting)
        values, keys = values[step], (*keys, step)
    return (*keys, detail["loc"][-1]) if detail["type"] == "missing" else keys


def _has(values: Any, step: str | int) -> bool:
    if isinstance(values, Mapping):
        return step in values
    return isinstance(values, list) and isinstance(step, int) and step < len(values)


def _found(detail: ErrorDetails) -> str:
    if detail["type"] in ("value_error", "extra_forbidden", "missing"):  # these say themselves what was found
        return ""
    found = detail.get("ctx", {}).get("tag", detail["input"])
    return f"it is {type(found).__name__ if isinstance(found, Strict) else shown(found)}; "


def _needed(keys: KeyPath, detail: ErrorDetails, root: type[Strict]) -> str:
    kind, loc, context = detail["type"], detail["loc"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        return f"unknown {root.called}; {choice(keys[-1], _fields_of(_classes_at(loc[:-1], root)))}"
    if kind == "missing":
        return f"the {root.called} is missing; give {_description(loc, root)}"
    if kind == "value_error":
        return str(context["error"])
    if kind == "union_tag_invalid":
        return choice(context["tag"], _quoted(context["expected_tags"]))
    if kind == "union_tag_not_found":
        key = context["discriminator"].strip("'")
        needed = "a name, or a section with `name`, is needed" if key == "name" else f"a section with `{key}` is needed"
        return f"{needed}: one of {', '.join(map(_name, _classes_at(loc, root)))}"
    if kind == "literal_error":
        return choice(detail["input"], _quoted(context["expected"]))
    if kind in ("model_type", "model_attributes_type"):
        classes = _classes_at(loc, root)
        section = "a section" if root.called == "key" else " or ".join(cls.__name__ for cls in classes)
        return f"{section} is needed, with the {root.called}s {', '.join(_fields_of(classes))}"
    if kind == "string_pattern_mismatch":
        return f"allowed: {_description(loc, root)}"
    return _NEEDS.get(kind, detail["msg"]).format(**context)


_NEEDS = {
    "int_type": "a whole number is needed",
    "int_parsing": "a whole number is needed",
    "float_type": "a number is needed",
    "float_parsing": "a number is needed",
    "finite_number": "a finite number is needed",
    "bool_type": "True or False is needed",
    "bool_parsing": "True or False is needed",
    "string_type": "text is needed; put it in quotes if it looks like a number",
    "path_type": "a path is needed",
    "tuple_type": "a list is needed, such as [a, b]",
    "list_type": "a list is needed, such as [a, b]",
    "greater_than": "it must be greater than {gt}",
    "greater_than_equal": "it must be at least {ge}",
    "less_than": "it must be less than {lt}",
    "less_than_equal": "it must be at most {le}",
    "too_short": "at least {min_length} item is needed",
    "too_long": "at most {max_length} items are allowed",
    "string_too_long": "it must have at most {max_length} characters",
    "string_too_short": "it must not be empty",
    "dict_type": "a section is needed",
}


def _fields_of(classes: Iterable[type[Strict]]) -> list[str]:
    return list(dict.fromkeys(field.alias or name for cls in classes for name, field in cls.model_fields.items()))


def _description(loc: Sequence[str | int], root: type[Strict]) -> str:
    fields = [cls.model_fields[str(loc[-1])] for cls in _classes_at(loc[:-1], root) if loc[-1] in cls.model_fields]
    return (fields[0].description if fields else None) or "it"


def _classes_at(loc: Iterable[str | int], root: type[Strict]) -> list[type[Strict]]:
    """The settings classes that may stand at a path of pydantic's."""
    classes = [root]
    for step in loc:
        named = [cls for cls in classes if _name(cls) == step or cls.__name__ == step]
        inside = [cls.model_fields[str(step)].annotation for cls in classes if step in cls.model_fields]
        classes = named or [c for annotation in inside for c in section_classes(annotation)] or classes
    return classes


def section_classes(annotation: Any) -> Iterator[type[Strict]]:
    """The settings classes that an annotation can hold, through unions, tuples and Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, Strict):
        yield annotation
    for argument in getattr(annotation, "__args__", ()):
        yield from section_classes(argument)


def _name(cls: type[Strict]) -> str:
    field = cls.model_fields.get("name") or cls.model_fields.get("type")
    return field.default if field is not None and isinstance(field.default, str) else ""


def _quoted(listed: str) -> list[str]:
    """The words of pydantic's `'a', 'b' or 3`."""
    return [word.strip("'") for word in re.split(", | or ", listed)]
