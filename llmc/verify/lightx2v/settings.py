"""Rules of LightX2V about numbers: every one that it reads of config.json and the runtime JSON is the run's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

import torch

from llmc.files.words import shown
from llmc.verify.judged import JudgedPart
from llmc.verify.lightx2v.network import NATIVE, LightX2VExport, WanNetwork
from llmc.verify.lightx2v.storages import KERNELS
from llmc.verify.native_config import RENAMED, TEXT_LEN, differences
from llmc.verify.settings import acts_are_the_judged_ones, config_differences
from llmc.verify.verdict import RUN, Checked, Finding, NotChecked, some

ATTENTION = ("self_attn_1_type", "cross_attn_1_type", "cross_attn_2_type")  # which kernel, not which numbers
# keys that other rules hold to the files
PLACES = ("dit_quantized", "dit_quant_scheme", "dit_quantized_ckpt", "high_noise_quantized_ckpt",
          "low_noise_quantized_ckpt", "quant_method", "lazy_load", "cpu_offload", "offload_granularity")  # fmt: skip
ENCODERS = ("t5", "clip")
NAMES = ("dim", "text_len", "quant_method", "_class_name", "model_type", "qk_norm")  # beside RENAMED, in config.json


def network_is_the_judged_one(network: WanNetwork) -> Finding:
    """Every number of config.json is that of the network that was judged."""
    judged = network.sources.judged(network.part)
    if not isinstance(judged, JudgedPart):
        return judged if isinstance(judged, NotChecked) else Checked([judged])
    config = network.config or {}
    if network.naming != NATIVE:
        return Checked(list(config_differences(config, judged.config, ("quant_method",))), f"{len(config)} settings")
    problems = list(differences(config, judged.config))
    extra = [key for key in config if key not in RENAMED and key not in NAMES]
    problems += [f"{some(extra)} in config.json: it overrides what LightX2V is started with"] if extra else []
    return Checked(problems, f"{len(config)} settings")


def runtime_is_as_judged(export: LightX2VExport) -> Finding:
    """LightX2V is started as the videos were made that the run judged."""
    run = export.sources.run
    if not export.runtimes:
        return Checked(note="there is no runtime JSON yet")
    if run is None or not run.whole:
        return NotChecked("no run says how its videos were made", RUN)
    first = run.parts.get("transformer")
    wanted = _wanted(run.sampling, len(export.networks), {} if first is None else first.config)
    problems = []
    for name, runtime in export.runtimes.items():
        problems += [f"{name}: {problem}" for problem in _differences(runtime or {}, wanted)]
    return Checked(problems, f"{len(wanted)} settings")


def _wanted(sampling: Mapping[str, Any], networks: int, config: Mapping[str, Any]) -> dict[str, Any]:
    guidance, shift = sampling.get("guidance_scale"), sampling.get("shift")
    found: dict[str, Any] = {
        "infer_steps": sampling.get("steps"), "target_video_length": sampling.get("num_frames"),
        "target_height": sampling.get("height"), "target_width": sampling.get("width"), "seed": sampling.get("seed"),
        "sample_guide_scale": guidance, "sample_shift": shift, "text_len": TEXT_LEN,
        "enable_cfg": is_number(guidance) and guidance > 1,
    }  # fmt: skip
    steps = sampling.get("denoising_step_list")
    distilled = isinstance(steps, list) and all(is_number(step) for step in steps) and bool(steps)
    if isinstance(steps, list) and distilled:
        found["denoising_step_list"] = steps
    if networks > 1:
        low = sampling.get("guidance_scale_2")
        found |= {"sample_guide_scale": [guidance, guidance if low is None else low]}
        boundary = sampling.get("boundary")
        found |= {"boundary": boundary}
        if isinstance(steps, list) and distilled and is_number(boundary) and is_number(shift):
            found["boundary_step_index"] = _steps_of_high_noise(boundary, steps, shift)
    ins, outs = config.get("in_channels"), config.get("out_channels")
    if config.get("image_dim") is None and is_number(ins) and is_number(outs) and ins > outs:
        found["use_image_encoder"] = False  # the first frame comes with the latents alone
    return found


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value of JSON can be computed with."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _steps_of_high_noise(boundary: float, steps: Sequence[int], shift: float) -> int:
    """How many steps of a distilled model are above the boundary once they are shifted, in a scheduler's float32."""
    noise = torch.tensor(list(steps), dtype=torch.float32) / 1000
    return int((shift * noise / (1 + (shift - 1) * noise) * 1000 >= boundary * 1000).sum())


def _differences(runtime: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    for key, value in wanted.items():
        if runtime.get(key) != value:
            yield f"{key} is {shown(repr(runtime.get(key)))}; the run judged {shown(repr(value))}"
    known = {*wanted, *ATTENTION, *PLACES}
    extra = [
        key for key in runtime if key not in known and not key.startswith(tuple(f"{one}_quant" for one in ENCODERS))
    ]
    if extra:
        yield f"{some(extra)}: a run writes no such thing, and judged nothing with it"


def inputs_are_rounded_as_judged(network: WanNetwork) -> Finding:
    """The kernels of the scheme round inputs as the judged layers did."""
    if network.scheme not in KERNELS:
        return NotChecked("the scheme is not known", "lightx2v_<scheme>.json, which names it")
    return acts_are_the_judged_ones(network)
