"""The published Wan models at their real sizes, on the meta device: parameters, linears, the table of each layer."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from llmc.__main__ import main
from llmc.models.base import adapters
from tests.end_to_end.small_run import small_config
from tests.tiny_pipelines import save_samples

CONFIGS = Path(__file__).parents[1] / "golden" / "configs"

# adapter, config, parameters in 1e9 (of one expert), linears: 10 a block, 12 where images are attended to.
# The names say 1.3B, 14B and 5B; with image projections or VACE blocks the networks are larger than their names.
PUBLISHED = [
    ("WanT2V", "wan21_t2v_1_3b", 1.42, 30 * 10),
    ("WanT2V", "wan21_t2v_14b", 14.29, 40 * 10),
    ("WanI2V", "wan21_i2v_14b", 16.40, 40 * 12),
    ("WanFLF2V", "wan21_flf2v_14b", 16.40, 40 * 12),
    ("WanVACE", "wan21_vace_1_3b", 2.15, (30 + 15) * 10),
    ("WanVACE", "wan21_vace_14b", 17.34, (40 + 8) * 10),
    ("Wan2T2V", "wan22_t2v_a14b", 14.29, 40 * 10),
    ("Wan2I2V", "wan22_i2v_a14b", 14.29, 40 * 10),
    ("Wan2TI2V", "wan22_ti2v_5b", 5.00, 30 * 10),
]


def pipeline_folder(adapter: str, config: str, folder: Path) -> Path:
    """What `check` reads of a model folder: its index and the transformers' configurations."""
    cls = adapters()[adapter]
    names = ("transformer", "transformer_2") if adapter in ("Wan2T2V", "Wan2I2V") else ("transformer",)
    index = {"_class_name": cls.pipeline, **{name: ["diffusers", "WanTransformer3DModel"] for name in names}}
    index["expand_timesteps"] = adapter == "Wan2TI2V"
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text((CONFIGS / f"{config}.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize(("adapter", "config", "billions", "linears"), PUBLISHED, ids=[row[1] for row in PUBLISHED])
def test_a_published_model_has_its_parameters_and_linears(
    adapter: str, config: str, billions: float, linears: int, tmp_path: Path
) -> None:
    for part in adapters()[adapter]().skeleton(pipeline_folder(adapter, config, tmp_path)):
        assert sum(p.numel() for p in part.module.parameters()) / 1e9 == pytest.approx(billions, abs=0.006)
        names = [linear for _, block in part.blocks for group in part.groups(block) for linear in group.linears]
        assert len(names) == linears


def test_check_explains_two_experts_of_14_billion_in_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config(tmp_path / "run", 1, "Wan2T2V", eval=None, save={"save_lightx2v": False})
    save_samples(tmp_path / "samples", 1)
    model = pipeline_folder("Wan2T2V", "wan22_t2v_a14b", tmp_path / "real")
    start = time.process_time()
    assert main(["check", str(config), "--explain", "--set", f"model.path={model}"]) == 0
    assert time.process_time() - start < 10
    out = capsys.readouterr().out
    assert "transformer (high noise expert): 40 blocks, 400 linears" in out
    assert "transformer_2 (low noise expert): 40 blocks, 400 linears" in out
