"""Judge a quantized network: generate from the same seeds, compare with float, and replay the float trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch

from llmc import distributed
from llmc.calib.kept import Kept
from llmc.calib.record import record_calls
from llmc.calib.recording import Recording, cached_recording, fingerprint
from llmc.calib.store import CallStore
from llmc.config.schema import Config
from llmc.memory import needed_for
from llmc.models.base import ModelAdapter, Sample, Sampling, Video
from llmc.steps.broken import check_float_videos
from llmc.steps.folder import RunFolder
from llmc.steps.network import Network
from llmc.steps.positions import Judged, Planned, averaged, judge_position
from llmc.steps.source import sources

LESS = (
    "smaller or shorter videos (eval.target_height, target_width, num_frames), or fewer (eval.n_samples, eval.seeds): "
    "all of them are compared at the end"
)


@dataclass(frozen=True)
class Judgement:
    """Every position that was judged, `float` first, over all samples of all ranks in order."""

    samples: list[tuple[Sample, Sampling]]
    positions: dict[str, Judged]


def judge(
    config: Config, adapter: ModelAdapter, pipeline: Any, networks: Sequence[Network], folder: RunFolder, kept: Kept
) -> Judgement:
    """Float, the baseline and every position of `eval.eval_pos`, from the same seeds. The float run stays in the run's
    folder; all else is `kept` until the run is over."""
    assert config.eval is not None
    samples = config.eval.samples(adapter)
    everything = [(sample, sampling) for sampling in config.eval_samplings() for sample in samples]
    planned = [(index, sample, how) for index, (sample, how) in distributed.share(everything)]
    loras = [(lora.path, lora.strength, lora.part) for lora in config.model.lora]
    with needed_for("making the float videos", LESS):
        recording = judge_float(adapter, pipeline, networks, planned, folder.path, [*sources(config.model), *loras])
    check_float_videos(planned, recording.videos)
    for store in recording.calls.values():
        store.number_over_ranks()
    positions = {"float": Judged(recording.videos, [], [], [])}
    wanted = [*(["baseline"] if config.eval.baseline else []), *config.eval.eval_pos]
    for position in dict.fromkeys(wanted):
        if position == "pretrain":  # that is float, which is there already
            continue
        with needed_for(f"judging {position}", LESS):
            own = Kept(kept.folder / position)
            positions[position] = judge_position(position, adapter, pipeline, networks, planned, recording, own)
    return Judgement(everything, {name: gathered(judged, len(everything)) for name, judged in positions.items()})


def gathered(judged: Judged, count: int) -> Judged:
    """One position over all ranks: samples back in order, errors of blocks and encoders averaged."""
    ranks = [each for each in distributed.gather(judged) if each.videos]
    places = [(i % distributed.world(), i // distributed.world()) for i in range(count)]
    return Judged(
        [ranks[rank].videos[i] for rank, i in places],
        [ranks[rank].steps[i] for rank, i in places] if ranks[0].steps else [],
        averaged(chain.from_iterable(each.blocks for each in ranks)),
        averaged(chain.from_iterable(each.encoders for each in ranks)),
    )


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
    if not planned:  # ranks without a sample would all write to one place
        return Recording([], {part.name: CallStore() for part in parts})
    weight = next(parts[0].module.parameters())
    samples = [(index, sample.model_dump(mode="json"), sampling.model_dump()) for index, sample, sampling in planned]
    images = [image for _, sample, _ in planned for image in (sample.image, sample.last_image) if image]
    what = [part.name for part in parts]
    key = fingerprint(
        adapter.name, depends, samples, *images, what, str(weight.dtype), str(weight.device), torch.__version__
    )

    by_index = {index: (index, sample, how) for index, sample, how in planned}

    def record(index: int, stores: dict[str, CallStore]) -> Video:
        (video,) = record_calls(adapter, pipeline, parts, [by_index[index]], stores, keep_outputs=True)
        return video

    return cached_recording(cache / f"float-{key}", what, list(by_index), record)
