"""What blocks give in each call may lie in memory or in files: the codes of every family are the same."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch

from llmc.algorithms.gptq import GPTQ
from llmc.algorithms.smoothquant import SmoothQuant
from llmc.calib.serialization import Packer
from llmc.engine.calibrate import CalibrationPlan, calibrate
from llmc.models.base import adapters
from llmc.models.loaded import LoadedModel
from tests.contracts.conftest import Family
from tests.slices import by_default

FLOAT_BESIDE = GPTQ(target="asymmetric")  # which runs the float blocks too


@torch.no_grad()
@pytest.mark.parametrize("family", by_default(["HunyuanVideo"], sorted(adapters())), indirect=True)
def test_streams_in_files_give_the_codes_of_streams_in_memory(
    family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    found: list[dict[str, torch.Tensor]] = []
    for memory in (10**9, 20_000):
        pipeline, networks = family.load(recipe=[SmoothQuant(), FLOAT_BESIDE])
        calibrate(
            LoadedModel(family.adapter, pipeline), networks, CalibrationPlan(family.planned[:1], 64, memory=memory)
        )
        packer = Packer()
        packer.pack([layer.state for network in networks for layer in network.layers.values()])
        found.append(packer.tensors)
    whole, partly = found
    assert whole.keys() == partly.keys()
    assert all(torch.equal(whole[name].float(), partly[name].float()) for name in whole)
    assert list(tmp_path.glob("llmc-calls-*")) == []
