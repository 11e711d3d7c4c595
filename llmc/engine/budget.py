"""How many calls of each network a calibration looks at, and which: known before the pipeline runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

from llmc.calib.budget import FEW, HUGE, JUDGED, LARGE, ChosenCalls, MaxCalls, spread_calls
from llmc.engine.network import Network
from llmc.errors import CalibrationError
from llmc.log import log
from llmc.models.loaded import LoadedModel
from llmc.models.samples import PlannedSamples

RANGES = frozenset({"range", "step_range"})  # the ends of what is read: a call that nobody sees may go beyond them


def chosen_calls(
    model: LoadedModel, networks: Sequence[Network], planned: PlannedSamples, max_calls: MaxCalls = None
) -> ChosenCalls:
    """The calls of each denoising network that are observed and kept, each spread over its own steps. Samples differ
    in their noise, and are else made alike. A network that needs calls and would get none is refused; where none needs
    any there may be no pipeline to count them by."""
    if not planned or not any(network.needs or network.attentions for network in networks):
        return ChosenCalls()
    how = planned[0][2]
    made = model.call_counts(how)
    for network in networks:
        name = network.part.name
        if network.part.is_denoiser and made[name] == 0 and (network.needs or network.attentions):
            raise CalibrationError(
                f"{name} runs in none of the {how.steps} steps of this schedule, so nothing would be known of "
                "it: another expert has them all; give calib more steps, or another shift"
            )
    return _spread(model, networks, planned, lambda network: calls_wanted(network, max_calls))


def calls_wanted(network: Network, max_calls: MaxCalls) -> int | None:
    """How many calls of a network are to be looked at; None: all."""
    if max_calls != "auto":
        return max_calls
    ranges = network.needs & RANGES or any(not attention.spec.dynamic for attention in network.attentions.values())
    return None if weights_of(network) < LARGE or ranges else FEW


def judged_calls(
    model: LoadedModel, networks: Sequence[Network], planned: PlannedSamples, max_calls: MaxCalls
) -> ChosenCalls:
    """The float calls that every position is fed with."""

    def wanted(network: Network) -> int | None:
        if max_calls != "auto":
            return max_calls
        return None if weights_of(network) < LARGE else JUDGED

    return _spread(model, networks, planned, wanted)


def is_huge(networks: Sequence[Network]) -> bool:
    """Whether a network is so large that a video which can be done without is not made."""
    return any(weights_of(network) >= HUGE for network in networks if network.part.is_denoiser)


def weights_of(network: Network) -> int:
    """How many weights its quantized layers have."""
    return sum(layer.in_features * layer.out_features for layer in network.layers.values())


def _spread(
    model: LoadedModel, networks: Sequence[Network], planned: PlannedSamples, wanted: Callable[[Network], int | None]
) -> ChosenCalls:
    """So many calls of each denoising network, spread over samples, its own steps and branches."""
    samples, how = [index for index, _, _ in planned], planned[0][2]
    made, branches = model.call_counts(how), len(model.adapter.branches_of(how))
    places: dict[str, Mapping[int, Sequence[int]]] = {}
    for network in networks:
        name = network.part.name
        if network.part.is_denoiser:
            count = wanted(network)
            count = made[name] * len(samples) if count is None else count
            chosen = spread_calls(len(samples), made[name] // branches, branches, count)
            places[name] = dict(zip(samples, chosen, strict=True))
    return ChosenCalls(places)


def samples_to_run(networks: Sequence[Network], planned: PlannedSamples, chosen: ChosenCalls) -> PlannedSamples:
    """Those of which some call is chosen; all of them where encoders are looked at, of which every call is."""
    if any(network.needs for network in networks if not network.part.is_denoiser):
        return planned
    return [one for one in planned if any(chosen.last(one[0]).values())]


def tell_budget(model: LoadedModel, planned: PlannedSamples, chosen: ChosenCalls) -> None:
    """Say how much of the float run is observed, and how much of it is made for that, where it is not all."""
    made = model.call_counts(planned[0][2])
    for part in chosen.places:
        if (observed := chosen.total(part)) < (whole := made[part] * len(planned)):
            log.info("of %s %d of %d calls are observed", part, observed, whole)
    forwards, whole = (
        sum(forwards_of(chosen, made, index) for index, _, _ in planned),
        sum(made.values()) * len(planned),
    )
    if forwards < whole:
        log.info("the float run makes %d of %d calls: it leaves each sample at the last of these", forwards, whole)


def forwards_until(model: LoadedModel, planned: PlannedSamples, chosen: ChosenCalls) -> dict[int, int]:
    """How often networks have run at the last chosen call of each sample, since the first one began."""
    forwards = [forwards_of(chosen, model.call_counts(how), index) for index, _, how in planned]
    return dict(zip((index for index, _, _ in planned), accumulate(forwards), strict=True))


def forwards_of(chosen: ChosenCalls, made: Mapping[str, int], sample: int) -> int:
    """How often networks run in a sample until its last chosen call; experts run one after another."""
    forwards = before = 0
    for part, last in chosen.last(sample).items():
        if last:
            forwards = before + last
        before += made[part]
    return forwards
