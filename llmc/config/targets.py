"""The exporters that the `save` section asks for, and the folder of each."""

from __future__ import annotations

from pathlib import Path

from llmc.config.schema import SaveConfig
from llmc.export.base import Exporter
from llmc.export.fake import FakeQuant
from llmc.export.lightx2v import LightX2V
from llmc.export.transformed import Transformed


def targets(save: SaveConfig) -> list[tuple[Exporter, Path]]:
    """LightX2V's files lie in save_path itself, where its loader and the converter are pointed at; the others below."""
    if save.save_path is None:
        return []
    wanted: list[tuple[Exporter, Path]] = []
    if save.save_lightx2v:
        wanted.append((LightX2V(native_names=save.native_names, layout=save.layout), save.save_path))
    if save.save_fake:
        wanted.append((FakeQuant(), save.save_path / "fake_quant"))
    if save.save_trans:
        wanted.append((Transformed(), save.save_path / "transformed"))
    return wanted
