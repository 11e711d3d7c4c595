"""A flat `save`, as LLMC's files have it and ours once had: switches of targets, and all settings beside them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmc.config.document import Document, KeyPath
from llmc.config.explain import Problem, problems_error
from llmc.config.save import exporters, settings_of, switch_of
from llmc.config.words import shown

OPTION = "--"  # how the place of a value begins that the command line gave


def save_by_target(document: Document, complete: bool = False) -> None:
    """Put the sections of targets in place of their switches and settings; errors still speak of what the file says.

    What an option of the command line says is later than the file, and replaces it; a file says a thing once. What has
    no meaning yet, such as a setting without its target, is left for options to mend, until the document is `complete`.
    """
    save = document.values.get("save")
    if not isinstance(save, dict):
        return
    problems = [*_take_path(document, save), *_take_switches(document, save), *_take_settings(document, save)]
    if complete:
        problems += _left_over(save)
    if problems:
        raise problems_error(problems, document.source())


def _take_path(document: Document, save: dict[str, Any]) -> Iterator[Problem]:
    if "save_path" in save:
        yield from _move(document, ("save", "save_path"), ("save", "path"))


def _take_switches(document: Document, save: dict[str, Any]) -> Iterator[Problem]:
    for name, exporter in exporters().items():
        if isinstance(save.get(name), bool):
            save[name] = {} if save[name] else None
        switch = switch_of(exporter)
        if switch not in save or switch == name:
            continue
        on, keys = save[switch], ("save", switch)
        if not isinstance(on, bool):
            continue
        if save.get(name) is not None and not _is_later(document, keys):
            yield Problem(keys, f"the section save.{name} says the same; keep one of them")
            continue
        del save[switch]
        document.places[("save", name)] = document.places.pop(keys, str(document.path))
        save[name] = (save.get(name) or {}) if on else None


def _take_settings(document: Document, save: dict[str, Any]) -> Iterator[Problem]:
    for key in [key for key in save if key in flat_settings()]:
        asked = {name: setting for name, setting in flat_settings()[key].items() if isinstance(save.get(name), dict)}
        if len(asked) > 1:
            sections = " or ".join(f"`{name}: {{{setting}: ...}}`" for name, setting in asked.items())
            yield Problem(("save", key), f"it is a setting of {' and of '.join(asked)}; write {sections}")
        for name, setting in asked.items() if len(asked) == 1 else ():
            yield from _move(document, ("save", key), ("save", name, setting))


def _left_over(save: dict[str, Any]) -> Iterator[Problem]:
    switches = {switch_of(exporter) for exporter in exporters().values()} - {*exporters()}
    for key, value in save.items():
        owners = flat_settings().get(key, {})
        if key in switches:
            yield Problem(("save", key), f"it is {shown(value)}; True or False is needed")
        elif owners:
            example, setting = next(iter(owners.items()))
            write = f"write `{example}: {{{setting}: {shown(value)}}}`, or leave {key} out"
            yield Problem(("save", key), f"it is a setting of {' and '.join(owners)}, which is not asked for; {write}")


def flat_settings() -> dict[str, dict[str, str]]:
    """A key of a flat `save` -> the exporters that have such a setting, and what it is called in their section."""
    found: dict[str, dict[str, str]] = {}
    for name, exporter in exporters().items():
        for setting in settings_of(exporter):
            found.setdefault(exporter.flat_names.get(setting, setting), {})[name] = setting
    taken = {"path", "overwrite", *exporters()}
    return {key: owners for key, owners in found.items() if key not in taken}


def _move(document: Document, theirs: KeyPath, ours: KeyPath) -> Iterator[Problem]:
    """A value to where we have it, spoken of as the file calls it, in its line."""
    there: Any = document.values
    for key in ours[:-1]:
        there = there[key]
    if there.get(ours[-1]) is not None and not _is_later(document, theirs):
        yield Problem(theirs, f"{'.'.join(map(str, ours))} says the same; keep one of them")
        return
    there[ours[-1]] = document.values["save"].pop(theirs[-1])
    document.places[ours] = document.places.pop(theirs, str(document.path))
    document.words[ours] = theirs


def _is_later(document: Document, keys: KeyPath) -> bool:
    return document.places.get(keys, "").startswith(OPTION)
