"""Write what was calibrated for its targets, with what the run knows of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmc import distributed
from llmc.config.schema import Config
from llmc.engine.loading import judged_sampling
from llmc.engine.network import Network
from llmc.export.base import Exporter
from llmc.export.manifest import MANIFEST, UNFINISHED
from llmc.export.part import FinishedPart
from llmc.ledger.folder import RunFolder, versions
from llmc.ledger.proof import keep_judged
from llmc.ledger.summary import describe

FEWER = "one target at a time, or other programs ended: what was calibrated is kept"


def write_exports(
    config: Config, networks: Sequence[Network], targets: Sequence[tuple[Exporter, Path]], folder: RunFolder
) -> Path | None:
    """Write every target, and the digests of what was written; returns the first one's folder."""
    written: list[Path] = []
    if folder.writes and targets:
        sampling = judged_sampling(config)
        parts = finished_parts(config, networks, sampling)
        for exporter, path in targets:
            written += write_export(exporter, parts, path, config.fingerprint())
        keep_judged(
            config.model.adapter(), config.model.path, networks, sampling, [path for _, path in targets], folder
        )
    distributed.wait()
    return written[0] if written else None


def write_export(exporter: Exporter, parts: Sequence[FinishedPart], path: Path, fingerprint: str) -> list[Path]:
    """Write one target; until all is written, a file says whose it becomes, and nothing says that it is whole."""
    path.mkdir(parents=True, exist_ok=True)
    (path / UNFINISHED).write_text(fingerprint, encoding="utf-8")
    (path / MANIFEST).unlink(missing_ok=True)
    written = [exporter.write(part, path) for part in parts]
    exporter.finish(parts, path)
    (path / UNFINISHED).unlink()
    return written


def finished_parts(config: Config, networks: Sequence[Network], sampling: Mapping[str, Any]) -> list[FinishedPart]:
    """The networks as exporters want them."""
    names = [network.part.name for network in networks]
    known = versions()
    provenance = {"producer": f"llmc {known['llmc']}", "recipe": describe(config), "fingerprint": config.fingerprint()}
    return [
        FinishedPart(
            name=network.part.name,
            module=network.part.module,
            layers=network.layers,
            renames=config.model.adapter().renames,
            source=config.model.path,
            provenance=provenance,
            sampling=sampling,
            section=network.part.section,
            others=tuple(name for name in names if name != network.part.name),
            folder=network.part.folder,
            config=network.part.config,
            errors={name: error.figures() for name, error in network.errors.items()},
            versions=known,
            attentions=network.attentions,
            original=network.original,
        )
        for network in networks
    ]
