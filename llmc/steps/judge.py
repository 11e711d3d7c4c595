"""Judge a quantized network: generate from the same seeds, compare with float, and replay the float trajectory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from llmc import distributed
from llmc.calib.record import record_calls
from llmc.calib.recording import Recording, cached_recording, fingerprint
from llmc.calib.store import CallStore
from llmc.calib.teacher import StepErrors, block_errors, teacher_forced_errors
from llmc.config.schema import Config
from llmc.errors import UnsupportedSpec
from llmc.layers.kernels import arithmetic
from llmc.layers.linear import QuantLinear, in_mode
from llmc.log import log, progress
from llmc.models.base import ModelAdapter, Sample, Sampling, Video
from llmc.steps.network import Network, rounded_to_nearest
from llmc.steps.source import sources

Planned = Sequence[tuple[int, Sample, Sampling]]  # this rank's samples, each with its place in the whole
MODES = {
    "pretrain": "float",
    "transformed": "transformed",
    "fake_quant": "quantized",
    "baseline": "quantized",
    "real_quant": "real",
}


@dataclass(frozen=True)
class Judged:
    """What one position gave: a video of each sample, its teacher-forced error step by step, each block's error, and
    that of what the pipeline reads of each quantized encoder."""

    videos: list[Video]
    steps: list[list[float]]
    blocks: list[tuple[str, float]]
    encoders: list[tuple[str, float]]


@dataclass(frozen=True)
class Judgement:
    """Every position that was judged, `float` first, over all samples of all ranks in order."""

    samples: list[tuple[Sample, Sampling]]
    positions: dict[str, Judged]


def judge(config: Config, adapter: ModelAdapter, pipeline: Any, networks: Sequence[Network], cache: Path) -> Judgement:
    """Float, the baseline and every position of `eval.eval_pos`, from the same seeds."""
    assert config.eval is not None
    samples = config.eval.samples(adapter)
    everything = [(sample, sampling) for sampling in config.eval_samplings() for sample in samples]
    planned = [(index, sample, how) for index, (sample, how) in distributed.share(everything)]
    loras = [(lora.path, lora.strength, lora.part) for lora in config.model.lora]
    recording = judge_float(adapter, pipeline, networks, planned, cache, [*sources(config.model), *loras])
    positions = {"float": Judged(recording.videos, [], [], [])}
    wanted = [*(["baseline"] if config.eval.baseline else []), *config.eval.eval_pos]
    for position in dict.fromkeys(wanted):
        if position != "pretrain":  # that is float, which is there already
            positions[position] = judge_position(position, adapter, pipeline, networks, planned, recording)
    return Judgement(everything, {name: gathered(judged, len(everything)) for name, judged in positions.items()})


def gathered(judged: Judged, count: int) -> Judged:
    """One position over all ranks: samples back in order, errors of blocks and encoders averaged."""
    ranks = [each for each in distributed.gather(judged) if each.videos]
    places = [(i % distributed.world(), i // distributed.world()) for i in range(count)]
    return Judged(
        [ranks[rank].videos[i] for rank, i in places],
        [ranks[rank].steps[i] for rank, i in places] if ranks[0].steps else [],
        averaged([each.blocks for each in ranks]),
        averaged([each.encoders for each in ranks]),
    )


def averaged(ranks: Sequence[list[tuple[str, float]]]) -> list[tuple[str, float]]:
    """The mean over the ranks of each named figure."""
    return [(figures[0][0], fmean(error for _, error in figures)) for figures in zip(*ranks, strict=True)]


def judge_float(
    adapter: ModelAdapter,
    pipeline: Any,
    networks: Sequence[Network],
    planned: Planned,
    cache: Path,
    depends: Sequence[object],
) -> Recording:
    """The float videos and every call behind them; from the cache if the very same were made before."""
    parts = [network.part for network in networks]
    weight = next(parts[0].module.parameters())
    samples = [(sample.model_dump(mode="json"), sampling.model_dump()) for _, sample, sampling in planned]
    images = [image for _, sample, _ in planned for image in (sample.image, sample.last_image) if image]
    what = [part.name for part in parts]
    key = fingerprint(
        adapter.name, depends, samples, *images, what, str(weight.dtype), str(weight.device), torch.__version__
    )

    def record(stores: dict[str, CallStore]) -> list[Video]:
        with progress("float videos", len(planned)) as advance:
            return record_calls(adapter, pipeline, parts, planned, stores, keep_outputs=True, on_video=advance)

    recording, was_there = cached_recording(cache / f"float-{key}", what, record)
    if was_there:
        log.info("the float videos are there already: read from %s", cache / f"float-{key}")
    return recording


def judge_position(
    position: str,
    adapter: ModelAdapter,
    pipeline: Any,
    networks: Sequence[Network],
    planned: Planned,
    reference: Recording,
) -> Judged:
    """Generate, and replay the float trajectory, with the layers as the position asks."""
    steps, blocks, encoders = [], [], []
    with in_position(networks, position):
        with progress(f"{position} videos", len(planned)) as advance:
            parts = [network.part for network in networks]
            videos = record_calls(adapter, pipeline, parts, planned, {}, on_video=advance)
        for network in networks:
            store = reference.calls[network.part.name]
            device = next(network.part.module.parameters()).device
            with progress(f"{position} on the float trajectory", len(store)) as advance:
                errors = teacher_forced_errors(network.part, store, device, advance)
            if network.part.section != "video_gen":
                encoders.append((network.part.name, mean_error(errors)))
                continue
            steps.append(errors)
            found = block_errors(network.part, network.switched, store, device)
            blocks += [(network.prefix + name, error) for name, error in found]
    return Judged(videos, per_step(steps, [index for index, _, _ in planned]), blocks, encoders)


@contextmanager
def in_position(networks: Sequence[Network], position: str) -> Iterator[None]:
    """The layers as LLMC's positions mean them (pretrain, transformed, fake_quant), just rounded (baseline), or as the
    device's own products compute them (real_quant)."""
    with ExitStack() as stack:
        for network in networks:
            if position == "baseline":
                stack.enter_context(rounded_to_nearest(network))
            if position == "real_quant":
                log.info("%s in real arithmetic: %s", network.part.name, real_arithmetic(network.layers))
            stack.enter_context(in_mode(network.switched, MODES[position]))  # type: ignore[arg-type]
        yield


def mean_error(errors: StepErrors) -> float:
    """Over every call; nan if there was none."""
    found = [error for steps in errors.values() for calls in steps.values() for error in calls]
    return fmean(found) if found else float("nan")


def real_arithmetic(layers: Mapping[str, QuantLinear]) -> str:
    """How many layers which product of the device will compute; refuses a layer that none can."""
    ways: Counter[str] = Counter()
    for name, layer in layers.items():
        if problem := layer.spec.real_problem():
            raise UnsupportedSpec(f"{name}: {problem}; leave real_quant out of eval.eval_pos")
        ways["float"] += layer.state.rounded is None
        if layer.state.rounded is not None:
            ways[arithmetic(layer.state.rounded.codes)] += 1
    return ", ".join(f"{count} layers by {way}" for way, count in ways.items() if count)


def per_step(parts: Sequence[StepErrors], samples: Sequence[int]) -> list[list[float]]:
    """The mean error of the calls of each step, whichever part ran them, sample by sample."""
    table = []
    for sample in samples:
        steps = sorted({step for errors in parts for step in errors.get(sample, {})})
        calls = [[error for errors in parts for error in errors.get(sample, {}).get(step, [])] for step in steps]
        table.append([sum(errors) / len(errors) for errors in calls])
    return table
