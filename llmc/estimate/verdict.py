"""Whether a run fits a machine; and if it does not, which settings make it fit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from llmc.estimate.facts import Facts
from llmc.estimate.held import Held, Settings
from llmc.estimate.machine import Machine
from llmc.estimate.stages import Stage, peaks, stages_of

SPARE = 1_000_000_000  # bytes of a device for its context and the workspaces of its libraries
LITTLE = 4_000_000_000  # bytes of the host that are left to streams where it is short of memory


@dataclass(frozen=True)
class Verdict:
    """The stages of a run as it is configured, and the settings that let it fit."""

    machine: Machine
    held: Held
    stages: list[Stage]
    fits: bool
    advice: dict[str, object]  # key -> value; empty where it fits, or nothing helps

    @property
    def changed(self) -> Settings | None:
        """With the advice."""
        return None if not self.advice else with_advice(self.held.settings, self.advice)


def judge_fit(facts: Facts, machine: Machine) -> Verdict:
    """Try the settings as they are, then what costs least first."""
    held = Held(facts, Settings.of(facts.config), machine)
    stages = stages_of(held)
    if fits(stages, machine):
        return Verdict(machine, held, stages, True, {})
    for advice in alternatives(held):
        other = replace(held, settings=with_advice(held.settings, advice))
        if fits(stages_of(other), machine):
            return Verdict(machine, held, stages, False, advice)
    return Verdict(machine, held, stages, False, {})


def fits(stages: list[Stage], machine: Machine) -> bool:
    """Whether no stage holds more than there is."""
    device, host, _ = peaks(stages)
    return host <= machine.host and (machine.is_cpu or machine.device is None or device + SPARE <= machine.device)


def with_advice(settings: Settings, advice: dict[str, object]) -> Settings:
    """The settings that some keys of a configuration make."""
    resident, memory, streamed = (
        advice.get(key, old)
        for key, old in (
            ("base.resident", settings.resident),
            ("base.memory", settings.memory),
            ("calib.streamed", settings.streamed),
        )
    )
    assert resident is None or isinstance(resident, int)
    assert memory is None or isinstance(memory, int)
    return Settings(resident, memory, bool(streamed))


def alternatives(held: Held) -> Iterator[dict[str, object]]:
    """Settings to try, in the order of what they cost: fewer blocks that stay, streams in files, blocks observed one at
    a time."""
    most = max(map(held.resident, held.facts.work))
    fewer = [{"base.resident": count} for count in range(most - 1, -1, -1)] if not held.machine.is_cpu else []
    files: list[dict[str, object]] = [{}, {"base.memory": LITTLE}, {"base.memory": 0}]
    slower: list[dict[str, object]] = [{}]
    if held.facts.calib is not None and not held.settings.streamed:
        slower.append({"calib.streamed": True})
    for streamed in slower:
        for memory in files:
            for resident in [{}, *fewer]:
                if advice := {**resident, **memory, **streamed}:
                    yield advice
