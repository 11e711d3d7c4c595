"""All that the cost of a run follows from: sizes, what each network holds while it works, and how often it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from llmc.calib.budget import ChosenCalls
from llmc.config.schema import Config
from llmc.engine.budget import chosen_calls, forwards_of, is_huge, judged_calls, samples_to_run
from llmc.engine.network import Network
from llmc.errors import AdapterError
from llmc.estimate.autoencoder import decoding, encoding
from llmc.estimate.encoders import reading
from llmc.estimate.shapes import Shapes, shapes_of, stand_in_pipeline
from llmc.estimate.work import Looked, NetworkWork, network_work
from llmc.models.loaded import LoadedModel
from llmc.models.samples import PlannedSamples, Sampling


@dataclass(frozen=True)
class Trajectory:
    """How networks are called for samples of one size, and which of these calls are looked at."""

    how: Sampling
    samples: int
    runs: int  # samples that are run at all
    made: dict[str, int]  # calls of each network in a sample
    chosen: ChosenCalls
    work: list[NetworkWork]
    encodes: int  # bytes of the device that are held at most while the prompt and the picture of a sample are encoded,
    decodes: int  # and while a video is decoded, where one is

    def total(self, name: str) -> int:
        """Calls of a network that are looked at."""
        return self.chosen.total(name) if self.chosen.places else self.samples * self.made.get(name, 0)

    @property
    def all_calls(self) -> int:
        """Of all samples, each run to its end."""
        return self.samples * sum(self.made.values())

    @property
    def forwards(self) -> int:
        """Until each sample is left at the last call that is looked at."""
        return sum(forwards_of(self.chosen, self.made, sample) for sample in range(self.samples))

    @property
    def frame_bytes(self) -> int:
        """Of a video, in bytes for each pixel and colour."""
        return 3 * self.how.num_frames * self.how.height * self.how.width


@dataclass(frozen=True)
class Facts:
    """Of one configuration, whatever machine it runs on."""

    config: Config
    shapes: Shapes
    calib: Trajectory | None  # none where no network has to be observed
    eval: Trajectory | None
    work: list[NetworkWork]  # of some trajectory, or without any: for what only looks at weights
    huge: bool  # whether a network is so large that videos which can be done without are not made

    @property
    def networks(self) -> list[Network]:
        return self.shapes.networks


def facts_of(config: Config, fused: bool = True) -> Facts:
    """Read from the model's folder, but for its weights; the work of a block of each class is run on shapes."""
    shapes = shapes_of(config, fused)
    model = LoadedModel(shapes.adapter, stand_in_pipeline(shapes))

    @cache
    def work(height: int, width: int, frames: int, calls: tuple[int, ...], rows: int) -> list[NetworkWork]:
        how = Sampling(height=height, width=width, num_frames=frames, steps=1, guidance_scale=1.0, seed=0)
        found = []
        for network, count in zip(shapes.networks, calls, strict=True):
            inputs = shapes.adapter.inputs(shapes.index, network.part.module, how)
            if not inputs:
                raise AdapterError(
                    f"{shapes.adapter.name} does not say what its networks are called with, so that no cost can be "
                    "told; its adapter's `inputs` would say it"
                )
            found.append(network_work(network, Looked(inputs, shapes.dtype, count, rows, shapes.fused)))
        return found

    calib, judged = None, None
    if config.calib is not None and config.observes():
        samples = config.calib_samples(shapes.adapter)
        planned = [(i, sample, config.calib_sampling(i)) for i, sample in enumerate(samples)]
        chosen = chosen_calls(model, shapes.networks, planned, config.calib.max_calls)
        runs = len(samples_to_run(shapes.networks, planned, chosen))
        calib = _trajectory(shapes, model, planned, chosen, runs, work, config.calib.max_rows, 0)
    if config.eval is not None:
        samples = config.eval.samples(shapes.adapter)
        everything = [(sample, how) for how in config.eval_samplings() for sample in samples]
        planned = [(i, sample, how) for i, (sample, how) in enumerate(everything)]
        chosen = judged_calls(model, shapes.networks, planned, config.eval.max_calls)
        rows = 1 if config.calib is None else config.calib.max_rows
        decodes = decoding(shapes, planned[0][2])
        judged = _trajectory(shapes, model, planned, chosen, len(planned), work, rows, decodes)
    some = calib or judged
    alone = some.work if some else work(*_least(shapes), (1,) * len(shapes.networks), 1)
    return Facts(config, shapes, calib, judged, alone, is_huge(shapes.networks))


def _trajectory(
    shapes: Shapes,
    model: LoadedModel,
    planned: PlannedSamples,
    chosen: ChosenCalls,
    runs: int,
    work: Callable[..., list[NetworkWork]],
    rows: int,
    decodes: int,
) -> Trajectory:
    how = planned[0][2]
    made = model.call_counts(how)
    calls = tuple(max(1, chosen.total(network.part.name)) for network in shapes.networks)
    found = work(how.height, how.width, how.num_frames, calls, rows)
    return Trajectory(
        how, len(planned), runs, made, chosen, found, max(encoding(shapes, how), reading(shapes)), decodes
    )


def _least(shapes: Shapes) -> Sequence[int]:
    """A size that every family can make, for who only looks at weights."""
    return 64, 64, 1
