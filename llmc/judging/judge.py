"""Judge a quantized network: generate from the same seeds, compare with float, and replay the float trajectory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import accumulate, chain, product
from pathlib import Path
from statistics import fmean
from typing import Literal, TypeVar

import torch

from llmc import distributed
from llmc.calib.budget import ChosenCalls
from llmc.calib.record import Watch, record_calls
from llmc.calib.recording import Recording, cached_recording, fingerprint
from llmc.calib.store import CallStore
from llmc.calib.value_folder import Kept
from llmc.config.samples import EvalConfig
from llmc.config.schema import Config
from llmc.engine.budget import is_huge, judged_calls
from llmc.engine.network import Network
from llmc.engine.source import sources
from llmc.judging.broken import check_float_videos
from llmc.judging.judgement import Judged, Judgement
from llmc.judging.positions import FP8, forwards_of_video, make_videos
from llmc.judging.replay import encoder_errors, replay_samples
from llmc.memory import needed_for
from llmc.models.loaded import LoadedModel
from llmc.models.parts import Part
from llmc.models.samples import PlannedSamples, Video
from llmc.progress import progress

Key = TypeVar("Key", str, int)
LESS = (
    "smaller or shorter videos (eval.target_height, target_width, num_frames), or fewer (eval.n_samples, eval.seeds): "
    "all of them are compared at the end"
)


def judge(config: Config, model: LoadedModel, networks: Sequence[Network], folder: Path, kept: Kept) -> Judgement:
    """Float, the baseline and every position of `eval.eval_pos`, from the same seeds. The float run stays in the run's
    `folder`; all else is `kept` until the run is over."""
    assert config.eval is not None
    samples = config.eval.samples(model.adapter)
    everything = [(sample, how) for how, sample in product(config.eval_samplings(), samples)]
    planned = [(index, sample, how) for index, (sample, how) in enumerate(everything)]
    chosen = judged_calls(model, networks, planned, config.eval.max_calls)
    planned = [one for _, one in distributed.share(planned)]
    loras = [(lora.path, lora.strength, lora.part) for lora in config.model.lora]
    with needed_for("making the float videos", LESS):
        depends, parts = [*sources(config.model), model.weights, *loras], [network.part for network in networks]
        recording = judge_float(model, parts, planned, chosen, folder, depends)
    check_float_videos(planned, recording.videos)
    for store in recording.calls.values():
        store.number_over_ranks()
    positions = asked_positions(config.eval)
    videos: dict[str, list[Video]] = {position: [] for position in positions}
    for position in positions:
        if position == "baseline" and not makes_baseline(config.eval.baseline_videos, networks):
            continue
        with needed_for(f"making the videos of {position}", LESS):
            videos[position] = make_videos(position, model, networks, planned, kept.of(position))
    with needed_for("replaying the float trajectory", LESS):
        replays = replay_all(networks, positions, recording, [index for index, _, _ in planned], kept)
    judged = {"float": Judged(recording.videos, [], [], [])}
    judged |= {position: replace(replays[position], videos=videos[position]) for position in positions}
    return Judgement(everything, {name: gathered(own, len(everything)) for name, own in judged.items()})


def asked_positions(section: EvalConfig) -> list[str]:
    """The positions that are judged, the baseline first, then what a gate asks for; float is there already."""
    yardstick = [FP8] if section.gate is not None and section.gate.no_worse_than == FP8 else []
    asked = dict.fromkeys([*(["baseline"] if section.baseline else []), *yardstick, *section.eval_pos])
    return [position for position in asked if position != "pretrain"]


def makes_baseline(asked: bool | Literal["auto"], networks: Sequence[Network]) -> bool:
    """Whether plain rounding makes videos too; what it makes of the float calls is known without."""
    return not is_huge(networks) if asked == "auto" else asked


def replay_all(
    networks: Sequence[Network], positions: Sequence[str], recording: Recording, samples: Sequence[int], kept: Kept
) -> dict[str, Judged]:
    """What every position makes of the float trajectory, without videos."""
    denoisers = [network for network in networks if network.part.is_denoiser]
    replays = [replay_samples(each, positions, recording.calls[each.part.name], samples, kept) for each in denoisers]
    found = {}
    for position in positions:
        encoders: list[tuple[str, float]] = []
        for network in networks:
            if not network.part.is_denoiser:
                name = network.part.name
                errors = encoder_errors(position, network, recording.calls[name], kept.of(position))
                encoders += [(name, error) for error in errors]
        of_samples = [[parts[position][sample] for parts in replays] for sample in samples]
        steps = [per_step(chain.from_iterable(part.calls for part in parts)) for parts in of_samples]
        blocks = list(chain.from_iterable(part.blocks for part in chain.from_iterable(of_samples)))
        found[position] = Judged([], steps, blocks, encoders)
    return found


def per_step(calls: Iterable[tuple[int, float]]) -> list[float | None]:
    """The mean error of the calls of each step, whichever network ran them; None of a step of which there are none."""
    found = dict(averaged(calls))
    return [found.get(step) for step in range(max(found, default=-1) + 1)]


def gathered(judged: Judged, count: int) -> Judged:
    """One position over all ranks: samples back in order, errors of blocks and encoders averaged."""
    ranks = distributed.gather(judged)
    places = [(i % distributed.world(), i // distributed.world()) for i in range(count)]
    return Judged(
        [ranks[rank].videos[i] for rank, i in places if ranks[rank].videos],
        [ranks[rank].steps[i] for rank, i in places if ranks[rank].steps],
        averaged(chain.from_iterable(each.blocks for each in ranks)),
        averaged(chain.from_iterable(each.encoders for each in ranks)),
    )


def averaged(figures: Iterable[tuple[Key, float]]) -> list[tuple[Key, float]]:
    """The mean of what there is under each key."""
    found: dict[Key, list[float]] = {}
    for key, error in figures:
        found.setdefault(key, []).append(error)
    return [(key, fmean(errors)) for key, errors in found.items()]


def judge_float(
    model: LoadedModel,
    parts: Sequence[Part],
    planned: PlannedSamples,
    chosen: ChosenCalls,
    cache: Path,
    depends: Sequence[object],
) -> Recording:
    """The float videos and the chosen calls behind them; from the cache if the very same were made before."""
    names = [part.name for part in parts]
    if not planned:  # ranks without a sample would all write to one place
        return Recording([], {name: CallStore() for name in names})
    key = fingerprint(model.adapter.name, depends, *asked_of(planned), names, chosen.as_lists(), *runs_as(parts[0]))
    by_index = {index: (index, sample, how) for index, sample, how in planned}

    forwards = [forwards_of_video(model, how) for _, _, how in planned]
    before = dict(zip(by_index, accumulate(forwards, initial=0), strict=False))
    with progress("float videos", sum(forwards), "forwards") as shown:

        def record(index: int, stores: dict[str, CallStore]) -> Video:
            shown.go_on(before[index])
            return record_calls(model, parts, [by_index[index]], stores, True, Watch(chosen, shown=shown))[0]

        return cached_recording(cache / f"float-{key}", names, list(by_index), record)


def asked_of(planned: PlannedSamples) -> list[object]:
    """What the samples ask for, and the images that they name, whose content counts."""
    samples = [(index, sample.model_dump(mode="json"), sampling.model_dump()) for index, sample, sampling in planned]
    images: list[object] = []
    for _, sample, _ in planned:
        images += [image for image in (sample.image, sample.last_image) if image]
    return [samples, *images]


def runs_as(part: Part) -> tuple[str, ...]:
    """In which type, where, and by which torch a network computes."""
    weight = next(part.module.parameters())
    return str(weight.dtype), str(weight.device), torch.__version__
