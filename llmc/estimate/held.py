"""What a run holds all the while: which blocks stay, what is read in turns, what runs beside the networks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

from llmc.config.schema import Config
from llmc.engine.calibrate import goes_by_block
from llmc.engine.lending import SHARE
from llmc.estimate.facts import Facts
from llmc.estimate.machine import Machine
from llmc.estimate.shapes import FLOAT32
from llmc.estimate.work import NetworkWork
from llmc.layers.turns import AT_ONCE


@dataclass(frozen=True)
class Settings:
    """What of a configuration moves memory, and can be moved without another result."""

    resident: int | None  # of each network; None: as many as fit
    memory: int | None  # of the host for what blocks give; None: half of what is free
    streamed: bool

    @classmethod
    def of(cls, config: Config) -> Settings:
        resident = None if config.base.resident == "auto" else config.base.resident
        return cls(resident, config.base.memory, config.calib is not None and config.calib.streamed)


@dataclass(frozen=True)
class Held:
    """A configuration with some settings, on a machine."""

    facts: Facts
    settings: Settings
    machine: Machine

    def resident(self, work: NetworkWork) -> int:
        """How many blocks of a network keep their weights."""
        if not self.opens_pipeline:
            return 0
        if self.settings.resident is not None:
            return min(self.settings.resident, len(work.lent))
        if self.machine.free is None:
            return len(work.lent)
        room = SHARE * self.machine.free / len(self.facts.work)
        return sum(end <= room for end in accumulate(work.whole))

    @property
    def opens_pipeline(self) -> bool:
        return self.facts.calib is not None or self.facts.eval is not None

    @property
    def is_copied(self) -> bool:
        """Whether weights on the host are not just views of their files: cast, merged, or not aligned there."""
        config = self.facts.config
        return bool(config.model.lora) or config.model.torch_dtype != "auto" or self.facts.shapes.dtype.itemsize > 2

    def weights(self) -> int:
        """Of all networks where they run, once they have run."""
        return sum(self._weights(work) for work in self.facts.work) if not self.machine.is_cpu or self.is_copied else 0

    def _weights(self, work: NetworkWork) -> int:
        resident = self.resident(work)
        turns = (AT_ONCE if self.opens_pipeline else 1) + (not self.machine.is_cpu)  # and one that is being brought
        staying, others = work.lent[:resident], work.lent[resident:]
        return work.stem + sum(staying) + sum(sorted(others)[-turns:])

    def components(self) -> int:
        """Of encoders and the autoencoder; on the host they are views of their files, where no type is changed."""
        if not self.opens_pipeline:
            return 0
        views = self.machine.is_cpu and not self.is_copied
        return sum(size for name, size in self.facts.shapes.components.items() if not views or name in FLOAT32)

    def codes(self) -> int:
        """Of blocks whose weights stay on a device, once they are rounded: on the host they lie in files."""
        if self.machine.is_cpu:
            return 0
        return sum(sum(block.codes for block in work.blocks[: self.resident(work)]) for work in self.facts.work)

    def by_block(self) -> list[NetworkWork]:
        """Networks whose statistics are gathered one block at a time, over recorded calls."""
        assert self.facts.calib is not None
        pairs = zip(self.facts.networks, self.facts.calib.work, strict=True)
        return [work for network, work in pairs if goes_by_block(network, self.settings.streamed)]

    def at_once(self) -> list[NetworkWork]:
        """Those of which all blocks are observed while the recording goes by."""
        if self.facts.calib is None:
            return []
        by_block = self.by_block()
        pairs = zip(self.facts.networks, self.facts.calib.work, strict=True)
        return [work for network, work in pairs if network.needs and work not in by_block]

    @property
    def memory(self) -> int:
        """Bytes of the host for what blocks give in all calls; what goes beyond is in files."""
        return self.machine.host // 2 if self.settings.memory is None else self.settings.memory

    @property
    def max_rows(self) -> int:
        """Act rows that are kept of each group of linears."""
        return 1 if self.facts.config.calib is None else self.facts.config.calib.max_rows

    @property
    def loaded(self) -> int:
        """Bytes on a device before anything runs."""
        return self.components() + sum(work.stem for work in self.facts.work)

    @property
    def brought(self) -> int:
        """Bytes of the host for the block that is on its way to a device."""
        return max(max(work.lent) for work in self.facts.work)
