"""`llmc estimate`: what a run would take, of this machine or of another."""

from __future__ import annotations

from collections.abc import Mapping

from llmc.config.schema import Config
from llmc.errors import AdapterError, ConfigError
from llmc.estimate.facts import facts_of
from llmc.estimate.machine import machine_for
from llmc.estimate.text import as_json, as_text, sentence
from llmc.estimate.verdict import judge_fit
from llmc.eval.results import PhaseResult, read_results
from llmc.models.base import check_adapter


def estimate(config: Config, budget: str | None = None, ram: str | None = None, json: bool = False) -> str:
    """All of it, in words or as one line of JSON."""
    check_adapter(type(config.model.adapter()), config.model.path)
    machine = machine_for(config.base.device, size_of("--budget", budget), size_of("--ram", ram))
    facts = facts_of(config)
    verdict, measured = judge_fit(facts, machine), measured_by(config)
    if not json:
        return as_text(facts, verdict, measured)
    from json import dumps

    return dumps(as_json(facts, verdict, measured))


def short(config: Config) -> str:
    """Whether it fits this machine, in one sentence."""
    try:
        return sentence(judge_fit(facts_of(config), machine_for(config.base.device)))
    except AdapterError as error:
        return f"not known: {error}"


def measured_by(config: Config) -> Mapping[str, PhaseResult]:
    """What the phases of the last run of this configuration took; nothing if there was none."""
    path = config.run_dir / "results.json"
    return read_results(path).phases if path.is_file() else {}


def size_of(option: str, text: str | None) -> int | None:
    """Bytes of `24GB`."""
    from pydantic import TypeAdapter, ValidationError

    from llmc.config.numbers import ByteCount

    if text is None:
        return None
    try:
        return TypeAdapter[int](ByteCount).validate_python(text)
    except ValidationError as error:
        raise ConfigError(f"{option} is {text!r}: write a number and its unit, such as 24GB or 24GiB") from error
