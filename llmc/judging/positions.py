"""Positions of the judgement: what its layers are in each, and the videos that they make."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial

from llmc.calib.block import BlockStep
from llmc.calib.record import Watch, record_calls
from llmc.calib.value_folder import Kept
from llmc.engine.network import Network, rounded_to_nearest
from llmc.errors import UnsupportedSpec
from llmc.layers.kernels import arithmetic
from llmc.layers.linear import QuantLinear, in_mode
from llmc.log import log
from llmc.models.loaded import LoadedModel
from llmc.models.samples import PlannedSamples, Sample, Sampling, Video
from llmc.numerics.spec import LayerSpec, TensorSpec
from llmc.progress import progress

FP8 = "fp8"  # plain rounding to 8-bit floats, which people accept today: a yardstick of a gate
MODES = {
    "pretrain": "float",
    "transformed": "transformed",
    "fake_quant": "quantized",
    "baseline": "quantized",
    "fp8": "quantized",
    "real_quant": "real",
}


@contextmanager
def in_position(
    networks: Sequence[Network], position: str, blocks: Sequence[BlockStep] | None = None
) -> Iterator[None]:
    """The layers as LLMC's positions mean them (pretrain, transformed, fake_quant), just rounded (baseline, fp8), or as
    the device's own products compute them (real_quant). Where only some blocks are to run, no other is rounded."""
    with ExitStack() as stack:
        for network in networks:
            if position == FP8:
                stack.enter_context(in_fp8(network))
            if position in ("baseline", FP8):
                stack.enter_context(rounded_to_nearest(network, blocks))
            if position == "real_quant" and blocks is None:
                log.info("%s in real arithmetic: %s", network.part.name, real_arithmetic(network.layers))
            stack.enter_context(in_mode(network.switched, MODES[position]))  # type: ignore[arg-type]
        yield


@contextmanager
def in_fp8(network: Network) -> Iterator[None]:
    """For a while, layers whose weight is quantized have the grids of fp8: a scale for each channel and each token."""
    layers = [layer for layer in network.layers.values() if layer.spec.weight is not None]
    specs = [layer.spec for layer in layers]
    for layer in layers:
        layer.spec = LayerSpec(
            weight=TensorSpec(format="fp8_e4m3", granularity="per_channel"),
            act=TensorSpec(format="fp8_e4m3", granularity="per_token"),
        )
    try:
        yield
    finally:
        for layer, spec in zip(layers, specs, strict=True):
            layer.spec = spec


def make_videos(
    position: str, model: LoadedModel, networks: Sequence[Network], planned: PlannedSamples, kept: Kept
) -> list[Video]:
    """A video of each sample of this rank with the layers as the position asks; one that is kept is not made again."""
    parts = [network.part for network in networks]
    missing = [how for index, _, how in planned if not kept.has(_video(index))]
    forwards = sum(forwards_of_video(model, how) for how in missing)
    with ExitStack() as stack:
        if missing:  # else no layer runs
            stack.enter_context(in_position(networks, position))
        watch = Watch(shown=stack.enter_context(progress(f"{position} videos", forwards, "forwards")))

        def make(index: int, sample: Sample, how: Sampling) -> Video:
            return record_calls(model, parts, [(index, sample, how)], {}, watch=watch)[0]

        return [kept.made(_video(one[0]), partial(make, *one)) for one in planned]


def forwards_of_video(model: LoadedModel, how: Sampling) -> int:
    """How often denoising networks run for one video."""
    return sum(model.call_counts(how).values())


def real_arithmetic(layers: Mapping[str, QuantLinear]) -> str:
    """How many layers which product of the device will compute; refuses a layer that none can."""
    ways: Counter[str] = Counter()
    for name, layer in layers.items():
        if problem := layer.spec.real_problem():
            raise UnsupportedSpec(f"{name}: {problem}; leave real_quant out of eval.eval_pos")
        ways["float" if (rounded := layer.rounded) is None else arithmetic(rounded.codes)] += 1
    return ", ".join(f"{count} layers by {way}" for way, count in ways.items())


def _video(index: int) -> str:
    return f"video.{index}"
