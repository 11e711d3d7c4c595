"""The float trajectory once more, in every position at once: block after block over some calls, so that each block is
worked on once for them, and what it adds to the error is known without a run of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from llmc.calib.store import Call, CallStore
from llmc.calib.stream import move_on, output_of
from llmc.calib.streams import Outputs
from llmc.calib.teacher import every_error, first_tensor, relative_error, teacher_forced_errors
from llmc.calib.value_folder import Kept
from llmc.engine.network import Network
from llmc.judging.positions import in_position
from llmc.layers.linear import in_mode
from llmc.log import log
from llmc.progress import progress


@dataclass(frozen=True)
class Replayed:
    """What one position makes of some float calls of a network, each fed what the float run fed it."""

    calls: list[tuple[int, float]]  # the step of each, and the error of what the network gives
    blocks: list[tuple[str, float]]  # the error of each block's output, in each call that was looked at


AT_ONCE = 4  # calls; so many are run again where a run was cut off
LOOKED_AT = 8  # calls, at least, in which blocks are compared


def replay_samples(
    network: Network, positions: Sequence[str], store: CallStore, samples: Sequence[int], kept: Kept
) -> dict[str, dict[int, Replayed]]:
    """Of each position the replay of each sample; what is kept is not run again."""
    stride = max(1, store.total // LOOKED_AT)
    pieces: dict[str, tuple[int, CallStore]] = {}
    for sample in samples:
        pieces |= {name: (sample, calls) for name, calls in _pieces(network, sample, store)}
    missing = [name for name in pieces if not kept.has(name)]
    if len(missing) < len(pieces):
        log.info("%s: %d of %d replays were done before", network.part.name, len(pieces) - len(missing), len(pieces))
    found = {position: {sample: Replayed([], []) for sample in samples} for position in positions}
    label, total = f"{network.part.name} on the float trajectory", len(missing) * len(network.blocks)
    with progress(label, total, "blocks") as advance:
        for name, (sample, calls) in pieces.items():
            make = partial(replay, network, positions, calls, lambda call: call.number % stride == 0, advance)
            for position, piece in kept.made(name, make).items():
                found[position][sample].calls.extend(piece.calls)
                found[position][sample].blocks.extend(piece.blocks)
    return found


def _pieces(network: Network, sample: int, store: CallStore) -> Iterator[tuple[str, CallStore]]:
    """A few calls of a sample at a time, and the name under which their replay is kept."""
    numbers = [call.number for call in store.headers() if call.sample == sample]
    for first in range(0, len(numbers), AT_ONCE):
        some = frozenset(numbers[first : first + AT_ONCE])
        yield f"{network.part.name}.replay.{sample}.{first}", store.where(partial(_is_of, some))


def _is_of(numbers: frozenset[int], call: Call) -> bool:
    return call.number in numbers


@torch.no_grad()
def replay(
    network: Network,
    positions: Sequence[str],
    calls: CallStore,
    looked_at: Callable[[Call], bool],
    on_block: Callable[[float, str], None] = lambda by, at: None,
) -> dict[str, Replayed]:
    """Compare what every position gives with the recorded outputs; in calls that `looked_at` chooses the float blocks
    run beside, and outputs of blocks are compared too."""
    part, device = network.part, next(network.part.module.parameters()).device
    headers = calls.headers()
    streams: dict[str, list[Outputs]] = {position: [{} for _ in headers] for position in positions}
    floats: dict[int, Outputs] = {place: {} for place, call in enumerate(headers) if looked_at(call)}
    blocks: dict[str, list[tuple[str, float]]] = {position: [] for position in positions}
    for index, block in enumerate(network.blocks):
        with in_mode(network.switched, "float"):
            wanted = {place: move_on(part, index, calls.call(place, device), floats[place], device) for place in floats}
        for position in positions:
            with in_position([network], position, [block]):
                for place, call in enumerate(calls.calls(device)):
                    output = move_on(part, index, call, streams[position][place], device)
                    if place in wanted:
                        error = relative_error(first_tensor(output), first_tensor(wanted[place]))
                        blocks[position].append((network.prefix + block.name, error))
        on_block(1, block.name)
    return {
        position: Replayed(_errors(network, calls, streams[position], device), blocks[position])
        for position in positions
    }


def _errors(
    network: Network, calls: CallStore, streams: Sequence[Outputs], device: torch.device
) -> list[tuple[int, float]]:
    """Of what the network makes of what its blocks gave: the step of each call, and its error."""
    errors = []
    for call, stream in zip(calls.calls(device), streams, strict=True):
        output = network.part.read(output_of(network.part, call, stream, device))
        errors.append((call.step, relative_error(first_tensor(output), first_tensor(call.output))))
    return errors


def encoder_errors(position: str, network: Network, store: CallStore, kept: Kept) -> list[float]:
    """The error of each call of an encoder, by whole forwards: pipelines read what other blocks than the last give."""
    device = next(network.part.module.parameters()).device

    def make() -> list[float]:
        with in_position([network], position):
            return every_error(teacher_forced_errors(network.part, store, device))

    return kept.made(f"{network.part.name}.replay", make)
