"""The shipped configuration of every scheme that LightX2V reads, on a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from llmc.compat.load import load_document

CONFIGS = Path(__file__).parents[2] / "configs/quantization/video_gen/wan_i2v"
SHIPPED = {  # scheme -> configuration
    "int8-vllm": "smoothquant_w_a",
    "fp8-vllm": "gptq_w_a_fp8",
    "fp8-b128-deepgemm": "fp8_block128",
    "fp8-pertensor": "fp8_pertensor_static",
    "nvfp4": "nvfp4",
    "mxfp4": "mxfp4",
    "mxfp6-mxfp8": "mxfp6_mxfp8",
    "mxfp8": "mxfp8",
    "int4-g128-marlin": "int4_marlin",
}


def shipped_config(folder: Path, name: str, out: Path, **save: Any) -> Path:
    """One of them, for the model and the samples in `folder`; it lies in `out`, and what it writes beside it."""
    config = load_document(CONFIGS / f"{name}.yaml").values
    config["base"] |= {"run_dir": str(out / "run"), "device": "cpu"}
    config["model"]["path"] = str(folder / "model")
    config["calib"] |= {"path": str(folder / "samples"), "sample_steps": 2, "max_rows": 64, "guidance_scale": 1.0,
                        "target_height": 32, "target_width": 32, "num_frames": 5}  # fmt: skip
    del config["eval"]
    config["save"]["lightx2v"]["native_names"] = save.pop("native_names", True)
    config["save"] |= {"path": str(out / "export"), **save}
    path = out / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path
