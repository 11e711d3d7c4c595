"""One position of the judgement: its videos, and what its layers make of the float trajectory, sample by sample."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from statistics import fmean
from typing import Any

from llmc import distributed
from llmc.calib.kept import Kept
from llmc.calib.record import record_calls
from llmc.calib.recording import Recording
from llmc.calib.store import CallStore
from llmc.calib.teacher import StepErrors, block_errors, teacher_forced_errors
from llmc.errors import UnsupportedSpec
from llmc.layers.kernels import arithmetic
from llmc.layers.linear import QuantLinear, in_mode
from llmc.log import log, progress
from llmc.models.base import ModelAdapter, Sample, Sampling, Video
from llmc.steps.network import Network, rounded_to_nearest

Planned = Sequence[tuple[int, Sample, Sampling]]  # this rank's samples, each with its place in the whole
MODES = {
    "pretrain": "float",
    "transformed": "transformed",
    "fake_quant": "quantized",
    "baseline": "quantized",
    "real_quant": "real",
}

CALLS = 8  # of the float run, at least, in which each block is looked at


@dataclass(frozen=True)
class Judged:
    """What one position gave: a video of each sample, its teacher-forced error step by step, each block's error, and
    that of what the pipeline reads of each quantized encoder."""

    videos: list[Video]
    steps: list[list[float]]
    blocks: list[tuple[str, float]]  # of each call that was looked at, until all ranks are gathered
    encoders: list[tuple[str, float]]  # the same


def judge_position(
    position: str,
    adapter: ModelAdapter,
    pipeline: Any,
    networks: Sequence[Network],
    planned: Planned,
    reference: Recording,
    kept: Kept,
) -> Judged:
    """Generate, and replay the float trajectory, with the layers as the position asks; what is kept stays as it is."""
    samples = [index for index, _, _ in planned]
    pieces = [_video(index) for index in samples]
    for network in networks:
        pieces += [_replay(network, index) for index in samples]
        pieces += [_blocks(network, number) for number in looked_at(network, reference)]
    missing = [piece for piece in pieces if not kept.has(piece)]
    if len(missing) < len(pieces):
        log.info("%s: %d of %d pieces of work were done before", position, len(pieces) - len(missing), len(pieces))
    steps, blocks, encoders = [], [], []
    with ExitStack() as stack:
        if missing:  # else no layer runs
            stack.enter_context(in_position(networks, position))
        videos = make_videos(position, adapter, pipeline, networks, planned, kept)
        for network in networks:
            errors = replay(position, network, reference.calls[network.part.name], samples, kept)
            if network.part.section != "video_gen":
                encoders += [(network.part.name, error) for error in every_error(errors)]
                continue
            steps.append(errors)
            blocks += look_at_blocks(network, reference, kept)
    return Judged(videos, per_step(steps, samples), blocks, encoders)


def make_videos(
    position: str, adapter: ModelAdapter, pipeline: Any, networks: Sequence[Network], planned: Planned, kept: Kept
) -> list[Video]:
    """A video of each sample."""
    parts = [network.part for network in networks]
    missing = [index for index, _, _ in planned if not kept.has(_video(index))]
    with progress(f"{position} videos", len(missing)) as advance:

        def make(index: int, sample: Sample, how: Sampling) -> Video:
            (video,) = record_calls(adapter, pipeline, parts, [(index, sample, how)], {}, on_video=advance)
            return video

        return [kept.made(_video(one[0]), partial(make, *one)) for one in planned]


def replay(position: str, network: Network, store: CallStore, samples: Sequence[int], kept: Kept) -> StepErrors:
    """The error of each float call of each sample."""
    device = next(network.part.module.parameters()).device
    missing = {index for index in samples if not kept.has(_replay(network, index))}
    waiting = store.where(lambda call: call.sample in missing)
    with progress(f"{position} on the float trajectory", len(waiting)) as advance:

        def errors(index: int) -> dict[int, list[float]]:
            calls = store.where(lambda call: call.sample == index)
            return teacher_forced_errors(network.part, calls, device, advance).get(index, {})

        return {index: kept.made(_replay(network, index), partial(errors, index)) for index in samples}


def looked_at(network: Network, reference: Recording) -> list[int]:
    """This rank's float calls, of a few of all ranks, in which each block is looked at; of an encoder none."""
    store = reference.calls[network.part.name]
    calls = store.headers() if network.part.section == "video_gen" else []
    return [place for place, call in enumerate(calls) if call.number % max(1, store.total // CALLS) == 0]


def look_at_blocks(network: Network, reference: Recording, kept: Kept) -> list[tuple[str, float]]:
    """The error of each block's output, by its full name, in each call."""
    store, device = reference.calls[network.part.name], next(network.part.module.parameters()).device

    def errors(number: int) -> list[tuple[str, float]]:
        return block_errors(network.part, network.switched, store.call(number, device))

    calls = [kept.made(_blocks(network, n), partial(errors, n)) for n in looked_at(network, reference)]
    return [(network.prefix + name, error) for name, error in chain.from_iterable(calls)]


def averaged(figures: Iterable[tuple[str, float]]) -> list[tuple[str, float]]:
    """The mean of what there is under each name."""
    found: dict[str, list[float]] = {}
    for name, error in figures:
        found.setdefault(name, []).append(error)
    return [(name, fmean(errors)) for name, errors in found.items()]


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


def every_error(errors: StepErrors) -> list[float]:
    """Those of all calls."""
    return [error for steps in errors.values() for calls in steps.values() for error in calls]


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


def _video(index: int) -> str:
    return f"video.{index}"


def _replay(network: Network, index: int) -> str:
    return f"{network.part.name}.replay.{index}"


def _blocks(network: Network, number: int) -> str:
    """In one of this rank's calls."""
    return f"{network.part.name}.blocks.{distributed.rank()}of{distributed.world()}.{number}"
