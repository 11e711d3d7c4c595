"""What a configuration will do, in a few lines of plain text: what `llmc check` prints."""

from __future__ import annotations

from llmc.calib.budget import FEW
from llmc.config.samples import CalibConfig
from llmc.config.schema import Config
from llmc.models.samples import Sampling
from llmc.section import Section


def plan(config: Config) -> str:
    """The run in the order in which it happens."""
    steps = [("model", f"{config.model.type} from {config.model.path}, {config.model.torch_dtype}")]
    sections = config.quant.sections()
    attention = config.attention_policy()
    if config.calib is not None and config.observes():
        steps.append(("calibrate", f"{_sampling(config.calib_sampling())}, samples of {config.calib.path}"))
        steps.append(("", _recording(config, config.calib)))
    for section in sections:
        policy = config.policy(section)
        methods = ", then ".join(method.label() for method in config.recipe(section))
        steps.append(("methods" if section == Section.VIDEO_GEN else section, methods))
        steps.append(("layers", str(policy.default)))
        steps += [(f"  {rule.match}", str(rule.spec)) for rule in policy.rules]
        if policy.ignored_blocks or policy.ignored_layers:
            ignored = [*(f"block {number}" for number in sorted(policy.ignored_blocks)), *policy.ignored_layers]
            steps.append(("  float", ", ".join(ignored)))
        if section == Section.VIDEO_GEN and attention is not None:
            steps.append(("attention", str(attention.default)))
            steps += [(f"  {rule.match}", str(rule.spec or "float")) for rule in attention.rules]
    steps += [("export", f"{exporter.name} to {folder}") for exporter, folder in config.save.targets()]
    if config.eval is not None:
        against = f" and {config.eval.baseline}" if config.eval.baseline else ""
        steps += [("judge", f"{_sampling(how)}, samples of {config.eval.path}") for how in config.eval_samplings()]
        metrics = ", ".join(metric.name for metric in config.metrics())
        steps.append(("", f"{', '.join(config.eval.eval_pos)}{against} against float: {metrics}"))
    steps.append(("run folder", str(config.run_dir)))
    width = max(len(name) for name, _ in steps)
    return "\n".join(f"{name:<{width}}  {text}" for name, text in steps)


def _recording(config: Config, calib: CalibConfig) -> str:
    """How often the networks run for the calibration, and how many of their calls are observed."""
    adapter, how = config.model.adapter(), config.calib_sampling()
    samples, branches = len(config.calib_samples(adapter)), len(adapter.branches_of(how))
    calls = samples * how.steps * branches
    if calib.max_calls is None:
        return f"{calls} calls, all of them observed"
    if calib.max_calls == "auto":
        return f"{calls} calls, all of them observed, or {FEW} of a large network whose acts are not static"
    running = min(samples, calib.max_calls)
    return (
        f"up to {running * how.steps * branches} calls of {running} of {samples} samples, {calib.max_calls} of each "
        "network observed"
    )


def _sampling(how: Sampling) -> str:
    size = f"{f'{how.num_frames} frames' if how.num_frames > 1 else 'images'} of {how.width}x{how.height}"
    steps = f"{how.steps} steps" + (f" at {list(how.denoising_step_list)}" if how.denoising_step_list else "")
    guidance = f"guidance {how.guidance_scale:g}" + (f" and {how.guidance_scale_2:g}" if how.guidance_scale_2 else "")
    shift = f", shift {how.shift:g}" if how.shift else ""
    return f"{size}, {steps}{shift}, {guidance}, seed {how.seed}"
