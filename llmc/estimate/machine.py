"""The machine that a run is planned for: this one, or another of which two sizes are said."""

from __future__ import annotations

from dataclasses import dataclass

from llmc.engine.device import choose_device, free_memory
from llmc.memory import available_memory

ELSEWHERE = "cuda"  # what a device that is not here is taken for


@dataclass(frozen=True)
class Machine:
    """Memory that a run can have."""

    kind: str  # of its device
    device: int | None  # bytes; None where it is the host's, or nobody can tell
    host: int

    @property
    def is_cpu(self) -> bool:
        return self.kind == "cpu"

    @property
    def free(self) -> int | None:
        """Where networks run."""
        return self.host if self.is_cpu else self.device


def machine_for(wanted: str, budget: int | None = None, ram: int | None = None) -> Machine:
    """This one, with what is free of it now; or one that has a device with so much memory, and so much on its host."""
    host = available_memory() if ram is None else ram
    if budget is not None:
        return Machine(ELSEWHERE, budget, host)
    device = choose_device(wanted)
    return Machine(device.type, None if device.type == "cpu" else free_memory(device), host)
