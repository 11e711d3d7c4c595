"""Files of the dialect, and folders that say what a model is without any weights."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

BLOCKS = 12
GOLDEN = Path(__file__).parents[2] / "golden"
INT8 = {"dtype": "int8", "symmetric": True, "method": "minmax"}
W8A8 = {"act": {**INT8, "scope": "per_token"}, "weight": {**INT8, "scope": "per_channel"}}

Translate = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def wan_t2v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wan2.1-T2V-14B."""
    return bare(tmp_path_factory.mktemp("wan"), "WanPipeline", "wan21_t2v_14b", "transformer")


@pytest.fixture(scope="session")
def wan22_t2v(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Wan2.2-T2V-A14B."""
    return bare(tmp_path_factory.mktemp("wan22"), "WanPipeline", "wan22_t2v_a14b", "transformer", "transformer_2")


@pytest.fixture(scope="session")
def hunyuan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """HunyuanVideo."""
    return bare(tmp_path_factory.mktemp("hunyuan"), "HunyuanVideoPipeline", "hunyuan_video_t2v", "transformer")


@pytest.fixture(scope="session")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FLUX.1-dev."""
    return bare(tmp_path_factory.mktemp("flux"), "FluxPipeline", "flux1_dev", "transformer")


def bare(folder: Path, pipeline: str, config: str, *networks: str) -> Path:
    values = json.loads((GOLDEN / "configs" / f"{config}.json").read_text(encoding="utf-8"))
    values |= {key: BLOCKS for key in ("num_layers", "num_single_layers") if key in values}
    index = {"_class_name": pipeline, **{name: ["diffusers", values["_class_name"]] for name in networks}}
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    for name in networks:
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(values), encoding="utf-8")
    return folder


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a file of the dialect: its processors, what `multimodal_sd_config` holds, and other keys of `spec`."""

    def written(process: list[dict[str, Any]], config: dict[str, Any] | None = None, **spec: Any) -> Path:
        path = tmp_path / "dialect.yaml"
        values = {
            "apiversion": "multimodal_sd_modelslim_v1",
            "spec": {
                "process": process,
                "save": [{"type": "mindie_format_saver", "part_file_size": 0}],
                "multimodal_sd_config": config or {},
                **spec,
            },
        }
        path.write_text(yaml.safe_dump(values, sort_keys=False), encoding="utf-8")
        return path

    return written
