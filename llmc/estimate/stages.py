"""The stages of a run, and what each holds and does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from llmc.engine.network import Network
from llmc.estimate.facts import Trajectory
from llmc.estimate.held import Held
from llmc.estimate.work import NetworkWork
from llmc.judging.judge import makes_baseline
from llmc.judging.replay import AT_ONCE, LOOKED_AT

LIBRARIES = 320_000_000  # bytes of the host that torch, diffusers and transformers take once they are imported
WITNESS = 3.0  # forwards of a few tokens, by which an export can be held to what was judged
WITNESS_ACTS = 1_000_000  # bytes where the network runs: as good as nothing, but in a model of a few MB
PIXELS = 4  # float32 copies of a video that are on the host while it becomes bytes
FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class Stage:
    """The most bytes that are held at once, those that are in files of the run when it ends, and its work."""

    name: str
    device: int  # 0 where networks run on the host
    host: int
    disk: int
    forwards: float  # of denoising networks
    reads: int  # bytes of weights and codes that come from files


def stages_of(held: Held) -> list[Stage]:
    """In their order; files of earlier stages stay."""
    found: list[Stage] = []
    for stage in filter(None, (_load(held), _record(held), _calibrate(held), _export(held), _judge(held))):
        before = found[-1].disk if found else 0
        found.append(replace(stage, disk=before + stage.disk))
    return found


def _stage(
    held: Held,
    name: str,
    works: int,
    host: int,
    disk: int = 0,
    forwards: float = 0.0,
    reads: int = 0,
    rounded: bool = True,
) -> Stage:
    """`works` is held where networks run beside what stays there, `host` on the host in any case."""
    where = held.components() + held.weights() + works + (held.codes() if rounded else 0)
    if held.machine.is_cpu:
        return Stage(name, 0, LIBRARIES + where + host, disk, forwards, reads)
    return Stage(name, where, LIBRARIES + held.brought + host, disk, forwards, reads)


def _load(held: Held) -> Stage:
    reads = held.components() + sum(work.stem for work in held.facts.work)
    return replace(_stage(held, "load", 0, 0, reads=reads), device=0 if held.machine.is_cpu else held.loaded)


def _record(held: Held) -> Stage | None:
    """The float run of the calibration, while which all blocks of some networks are observed."""
    seen = held.facts.calib
    if seen is None:
        return None
    rows, gathered, works = 0, 0, seen.encodes
    for work in seen.work:
        works = max(works, work.most("runs"), work.ends)
    for work in held.at_once():
        rows += _rows(held, work, seen.total(work.name))
        gathered += sum(block.gathered for block in work.blocks)
        works = max(works, work.most("observed") - work.most("gathered"))
    calls = sum(_recorded(work, seen) for work in held.by_block())
    disk = calls + rows + gathered  # what was observed is kept after each sample, too
    reads = _staying(held) + round(sum(_turns(held, work) * _runs_of(seen, work) for work in seen.work))
    forwards = seen.forwards - seen.runs * (1 - _begun(held))
    return _stage(held, "record", works + gathered, rows, disk, forwards, reads, rounded=False)


def _begun(held: Held) -> float:
    """How much of a network runs in the last call of a sample, which is left once all that is observed has been."""
    work = held.facts.work[-1]
    if work not in held.by_block():
        return 1.0
    network = held.facts.networks[-1]
    return shares(network)[0] if network.first_is_like_float else 0.0


def shares(network: Network) -> list[float]:
    """How much of a forward each block is, by its weights."""
    sizes = [sum(layer.in_features * layer.out_features for layer in block.linears.values())
             for block in network.blocks]  # fmt: skip
    return [size / sum(sizes) for size in sizes]


def _calibrate(held: Held) -> Stage:
    """Recipes at work, block after block."""
    facts = held.facts
    works = max(work.most("recipe") for work in facts.work)
    host = disk = reads = 0
    forwards = 0.0
    for work in held.at_once():
        assert facts.calib is not None
        works = max(works, sum(block.gathered for block in work.blocks[1:]) + work.most("recipe"))
        host += _rows(held, work, facts.calib.total(work.name))
    for work in held.by_block() if facts.calib else []:
        assert facts.calib is not None
        network = next(each for each in facts.networks if each.part.name == work.name)
        calls = facts.calib.total(work.name)
        works = max(works, work.most("observed"), work.most("quantized"))
        kept = calls * work.stream * _streams(network)
        one = max(block.rows for block in work.blocks)
        host = max(host, min(kept, held.memory) + 2 * one * _rows_kept(calls, held.max_rows))
        disk += max(0, kept - held.memory)
        forwards += calls * _passes(network)
    reads += sum(_turns(held, work) for work in facts.work)
    disk += sum(work.codes for work in facts.work)
    return _stage(held, "calibrate", works, host, disk, forwards, reads)


def _export(held: Held) -> Stage | None:
    exporters = [exporter for exporter, _ in held.facts.config.save.targets()]
    if not exporters:
        return None
    work = held.facts.work
    floats = sum(sum(each.lent) + each.stem for each in work)
    rounded = sum(each.codes + each.stem for each in work)
    disk = sum(floats if exporter.name in ("fake_quant", "transformed") else rounded for exporter in exporters)
    largest = 0 if held.machine.is_cpu else max(max(each.lent) for each in work)  # else written some rows at a time
    reads = len(exporters) * sum(each.codes for each in work)
    runs = 0 if held.opens_pipeline else WITNESS_ACTS  # else less than what ran before
    return _stage(held, "export", largest + runs, largest, disk, WITNESS * len(work), reads)


def _judge(held: Held) -> Stage | None:
    seen, config = held.facts.eval, held.facts.config
    if seen is None or config.eval is None:
        return None
    asked = [*(["baseline"] if config.eval.baseline else []), *config.eval.eval_pos]
    positions = [position for position in dict.fromkeys(asked) if position != "pretrain"]
    plain = makes_baseline(config.eval.baseline_videos, held.facts.networks)
    filmed = [position for position in positions if plain or position != "baseline"]
    works, streams, disk, reads = max(seen.encodes, seen.decodes), 0, 0, 0
    forwards = float(seen.all_calls * (1 + len(filmed)))
    for work in seen.work:
        calls = seen.total(work.name)
        piece = min(AT_ONCE, -(-calls // seen.samples))
        stride = max(1, calls // LOOKED_AT)
        wanted = -(-piece // stride) * work.most("output")
        works = max(works, work.ends, *(work.most(what) + wanted for what in ("runs", "quantized", "compared")))
        streams = max(streams, piece * work.stream * (len(positions) + 1))
        forwards += calls * len(positions) + -(-calls // stride)
        disk += calls * (work.call + work.output) + seen.samples * work.shared
        made = seen.samples * seen.made.get(work.name, 0)
        share = _turns(held, work) / max(1, sum(work.lent))
        reads += int(made * (_turns(held, work) + len(filmed) * share * work.codes))
        reads += int(-(-calls // AT_ONCE) * (2 * _turns(held, work) + share * work.codes))
    videos = seen.samples * (1 + len(filmed)) * seen.frame_bytes
    making = seen.frame_bytes * FLOAT32 * PIXELS if seen.decodes else 0
    return _stage(held, "judge", works, max(videos + making, streams), disk + 2 * videos, forwards, reads)


def _rows(held: Held, work: NetworkWork, calls: int) -> int:
    """Bytes of the rows that are kept of all blocks."""
    return sum(block.rows for block in work.blocks) * _rows_kept(calls, held.max_rows)


def _rows_kept(calls: int, max_rows: int) -> int:
    """Of how many calls rows are kept."""
    return -(-calls // max(1, calls // max(1, max_rows)))


def _recorded(work: NetworkWork, seen: Trajectory) -> int:
    """Bytes of the calls that are kept in files; what calls of a branch share is kept once."""
    return seen.total(work.name) * work.call + seen.runs * work.shared


def _runs_of(seen: Trajectory, work: NetworkWork) -> float:
    """How often a network runs in the recording."""
    made = sum(seen.made.values())
    return seen.forwards * seen.made.get(work.name, 0) / max(1, made)


def _turns(held: Held, work: NetworkWork) -> int:
    """Bytes of the weights that are read anew in each forward."""
    return sum(work.lent[held.resident(work) :])


def _staying(held: Held) -> int:
    return sum(sum(work.lent[: held.resident(work)]) for work in held.facts.work)


def _streams(network: Network) -> int:
    """How many outputs are kept of each call: of the quantized blocks, and where a method compares with them, of the
    float blocks before and after the block at work."""
    return 3 if {"cross", "cross64"} & network.needs else 1


def _passes(network: Network) -> float:
    """Forwards of a whole network for each call while it is worked on block by block."""
    each = shares(network)
    passes = 1.0  # each block is observed
    if network.sequential:
        passes += 1 - each[-1]  # and runs once more as it was rounded
        passes -= each[0] * network.first_is_like_float
    if {"cross", "cross64"} & network.needs:
        groups = max(len(block.groups) for block in network.blocks)
        passes += 1 + 2 * (groups - 1)  # float blocks beside, and both again for each later group
    return passes


def peaks(stages: Sequence[Stage]) -> tuple[int, int, int]:
    """The most of a device, of the host, and of the disk."""
    return max(each.device for each in stages), max(each.host for each in stages), max(each.disk for each in stages)
