"""What MindIE must be told to use scales of single denoising steps: no file says it, so that it stands beside them.

Without it every step measures its scales, which is right but slower.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from llmc.errors import ExportError

if TYPE_CHECKING:
    from llmc.export.mindie.types import RunDtype, Version
    from llmc.layers.linear import QuantLinear
    from llmc.layers.steps import StepGrids

POLICY = "timestep_policy.json"
TARGETS: Mapping[Version, str] = {"2.3": "", 3: "", "2026-07": ', target="w8a8_static_linear"'}


def step_grids(layers: Iterable[QuantLinear]) -> StepGrids | None:
    """Those of any layer: all have the same steps, and the same of them static; None if none has any."""
    found = [layer.state.steps for layer in layers if layer.state.steps is not None]
    if len({(len(grids.scale), grids.dynamic_below) for grids in found}) > 1:
        raise ExportError(
            "layers have scales for different steps, and MindIE has one policy for all; calibrate them in one run with "
            "one `timestep_sep`"
        )
    return found[0] if found else None


def policy(grids: StepGrids) -> dict[str, Any]:
    """The content of the file beside the weights."""
    return {
        "steps": len(grids.scale),
        "first_static_step": grids.dynamic_below,
        "steps_with_scales_of_the_nearest": list(grids.filled),
        "register": {str(version): registration(grids, version) for version in TARGETS},
    }


def registration(grids: StepGrids, version: Version) -> str:
    """The call that a pipeline of that version needs."""
    return f'policy.register(range({grids.dynamic_below}, {len(grids.scale)}), "static"{TARGETS[version]})'


def loading_code(description: str, dtype: RunDtype, version: Version, grids: StepGrids | None) -> str:
    """Python that loads one network, and what its denoising loop has to say."""
    torch_dtype = {"bf16": "bfloat16", "fp16": "float16"}[dtype]
    call = f'quantize(model, "{description}", dtype=torch.{torch_dtype}'
    names = "quantize" if grids is None else "TimestepManager, TimestepPolicyConfig, quantize"
    lines = ["import torch", f"from mindiesd import {names}", ""]
    if grids is None:
        return "\n".join([*lines, f'model = {call}).to("npu")'])
    other: Version = 3 if version == "2026-07" else "2026-07"
    return "\n".join([
        *lines,
        "policy = TimestepPolicyConfig()",
        f"{registration(grids, version)}  # in MindIE-SD {other}: {registration(grids, other)}",
        f'model = {call}, timestep_config=policy).to("npu")',
        "for step, timestep in enumerate(timesteps):  # the pipeline's own loop",
        "    TimestepManager.set_timestep_idx(step)",
    ])  # fmt: skip
