"""What each method costs on Wan blocks, as a multiple of one float trajectory over the same calls.

python -m benchmarks.calibrate [--size small|1.3b|14b] [--method NAME ...] [--slopes] [--solver 5120] [--json]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

from benchmarks.measure import Turn, fastest, peak_bytes, tensors_as_mappings, timed
from benchmarks.page import write_page
from benchmarks.wan_blocks import Calls, Size, WanCalls, network, sampling
from llmc.algorithms.awq import Awq
from llmc.algorithms.base import Algorithm
from llmc.algorithms.gptq import GPTQ
from llmc.algorithms.hadamard import Hadamard
from llmc.algorithms.lowrank import LowRank
from llmc.algorithms.rtn import RTN
from llmc.algorithms.smoothquant import SmoothQuant
from llmc.calib.observers import OBSERVERS, Awaited
from llmc.calib.running import at_call
from llmc.calib.store import Call
from llmc.engine.calibrate import CalibrationPlan, calibrate
from llmc.engine.network import Network, prepare
from llmc.layers.linear import LayerState
from llmc.models.loaded import LoadedModel
from llmc.models.samples import Sample
from llmc.numerics.spec import LayerSpec, TensorSpec
from llmc.policy.rules import Policy

SIZES = {
    "small": Size(),
    "1.3b": Size(dim=1536, ffn=8960, blocks=2, tokens=1024, calls=4),
    "14b": Size(dim=5120, ffn=13824, blocks=1, tokens=1024, calls=2),
}
SEARCH = SmoothQuant(alpha="search")
RECIPES: dict[str, tuple[Algorithm, ...]] = {
    "RTN": (RTN(),),
    "SmoothQuant": (SEARCH,),
    "AWQ": (Awq(),),
    "GPTQ sequential": (GPTQ(),),
    "GPTQ range search": (GPTQ(range="search"),),
    "GPTQ asymmetric": (GPTQ(target="asymmetric"),),
    "full stack": (SEARCH, Hadamard(), LowRank(), GPTQ(range="search")),
}
W8A8 = LayerSpec(
    weight=TensorSpec(format="int8", granularity="per_channel"), act=TensorSpec(format="int8", granularity="per_token")
)
MAX_ROWS = 512
LONGEST = 3  # times its seconds a method is timed at most, waiting for quiet rounds


@dataclass(frozen=True)
class Round:
    """A turn of a method, and the float turns right before and after it: the speed of a shared machine drifts, and its
    fastest float turn may be of another minute than the fastest of the method."""

    before: Turn
    turn: Turn
    after: Turn

    @property
    def ratio(self) -> float:
        return self.turn.seconds / statistics.mean([self.before.seconds, self.after.seconds])

    @property
    def is_quiet(self) -> bool:
        return all(turn.is_quiet for turn in (self.before, self.turn, self.after))


@dataclass(frozen=True)
class Patience:
    """How long one method is timed: so many seconds, and longer for so many quiet rounds, in which a host gave the
    processors to nobody else. They alone count, unless there are fewer than two."""

    rounds: int
    seconds: float

    def lasts(self, rounds: Sequence[Round], seconds: float) -> bool:
        wanting = sum(each.is_quiet for each in rounds) < self.rounds and seconds < LONGEST * self.seconds
        return len(rounds) < 2 or seconds < self.seconds or wanting


def main() -> None:
    """Print a table, or one JSON object as the last line."""
    arguments = _arguments()
    device = _device()
    size, patience = SIZES[arguments.size], Patience(arguments.rounds, arguments.seconds)
    rows = [measure(method, size, arguments.threads, patience) for method in arguments.method]
    result: dict[str, Any] = {
        "size": asdict(size),
        "device": str(device),
        "threads": arguments.threads,
        "methods": rows,
    }
    if arguments.slopes:
        result["slopes"] = [_slopes(method, size, arguments.threads, patience, rows) for method in arguments.method]
    if arguments.solver:
        result["solver"] = solver(arguments.solver, device, arguments.threads)
    if arguments.page:
        of = ("" if arguments.size == "small" else arguments.size) + ("slopes" if arguments.slopes else "")
        write_page("calibrate", _table(result), device, of)
    print(json.dumps(result) if arguments.json else _table(result))


def measure(method: str, size: Size, threads: int, patience: Patience) -> dict[str, Any]:
    """What one method takes: its time and its memory, each in a process of its own."""
    time_taken = _in_own_process(measure_time, method, size, threads, patience)
    with tensors_as_mappings():
        memory = _in_own_process(measure_memory, method, size, threads)
    return {"method": method} | time_taken | memory


def measure_time(method: str, size: Size, threads: int, patience: Patience) -> dict[str, Any]:
    """Turns of a method between turns of one float trajectory over the same calls; the ratio is the median over rounds.
    What takes less than a float run runs several times in a turn."""
    work, float_run, _ = _work(method, size, threads)

    def turn(run: Callable[[], object], times: int = 1) -> Turn:
        whole = timed(lambda: [run() for _ in range(times)], _device())
        return replace(whole, seconds=whole.seconds / times)

    times = max(1, round(turn(float_run).seconds / turn(work).seconds))
    before, rounds, start = turn(float_run), list[Round](), time.perf_counter()
    while patience.lasts(rounds, time.perf_counter() - start):
        its_own, after = turn(work, times), turn(float_run)
        rounds.append(Round(before, its_own, after))
        before = after
    quiet = [each for each in rounds if each.is_quiet]
    counted = quiet if len(quiet) > 1 else rounds
    ratios = [each.ratio for each in counted]
    seconds, float_seconds = min(each.turn.seconds for each in counted), min(each.before.seconds for each in counted)
    return {
        "ratio": statistics.median(ratios),
        "quartiles": statistics.quantiles(ratios, n=4)[::2],
        "fastest_ratio": seconds / float_seconds,
        "rounds": len(rounds),
        "quiet_rounds": len(quiet),
        "seconds": seconds,
        "float_seconds": float_seconds,
    }


def measure_memory(method: str, size: Size, threads: int) -> dict[str, Any]:
    """Bytes at the highest point above the float model, beside what is allowed and what a float trajectory takes. Both
    ran once before: what libraries set up at their first product is not counted."""
    work, float_run, held = _work(method, size, threads)
    float_run()
    work()
    float_peak, peak = (peak_bytes(run, _device()) for run in (float_run, work))
    allowed = sum(held.values())
    return {
        "peak_bytes": peak,
        "float_peak_bytes": float_peak,
        "allowed_bytes": allowed,
        "peak_share": peak / max(1, allowed),
        "allowed": held,
    }


def _work(method: str, size: Size, threads: int) -> tuple[Callable[[], object], Callable[[], object], dict[str, int]]:
    """Calibration by a method, a float run over the same calls, and the bytes that calibration may hold."""
    torch.set_num_threads(threads)
    adapter, pipeline, how = WanCalls(), network(size, _device()), sampling(size)
    part = prepare(adapter.parts(pipeline)[0], Policy(W8A8), (), RECIPES[method])
    sample = Sample(prompt="none")

    def work() -> None:
        for layer in part.layers.values():
            layer.state = LayerState()
        calibrate(LoadedModel(adapter, pipeline), [part], CalibrationPlan([(0, sample, how)], MAX_ROWS))

    return (
        work,
        lambda: adapter.generate(pipeline, sample, how),
        _allowed(part, pipeline, size),
    )


def _device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _allowed(part: Network, pipeline: Calls, size: Size) -> dict[str, int]:
    """What may be held above the float model: one block's weights in float32, in which they are worked on, the
    statistics in use, and the calls: what the blocks pass on, since the recorded tensors lie on disk."""
    weights = [sum(4 * layer.weight.numel() for layer in block.linears.values()) for block in part.blocks]
    observed = part.blocks[:1] if part.sequential else part.blocks
    statistics = sum(_bytes_of(need, group.linears[0].in_features, size) for block in observed for group in block.groups
                     for need in part.needs)  # fmt: skip
    streams = part.sequential + part.within_block  # quantized, and float beside
    calls = streams * size.calls * size.tokens * size.dim * pipeline.latents.element_size()
    return {"block": max(weights), "statistics": statistics, "calls": calls}


def _bytes_of(need: str, width: int, size: Size) -> int:
    observer = OBSERVERS[need](Awaited(size.calls, MAX_ROWS, width, torch.device("cpu")))
    for number in range(size.calls if need == "rows" else 1):
        x = torch.zeros(size.tokens, width, dtype=torch.bfloat16)
        with at_call(Call(0, 0, None, "", number=number)):
            observer.update(x, x)
    return observer.result().nbytes


def solver(width: int, device: torch.device, threads: int) -> dict[str, Any]:
    """GPTQ of a square layer against a float32 product of matrices of that size, in operations per second."""
    from llmc.numerics.gptq import Factor, gptq
    from llmc.numerics.quantize import scales, sliced

    torch.set_num_threads(threads)
    x = torch.randn(2 * width, width, device=device)
    gram, weight = x.T @ x, torch.randn(width, width, device=device)
    spec = TensorSpec(format="int4", granularity="per_channel")
    grid = scales(sliced(weight, spec), spec)
    copies = [gram.clone() for _ in range(3)]  # a factor takes the place of its matrix
    product = fastest(lambda: weight @ gram, device, 3)
    solved = fastest(lambda: gptq([weight], Factor.of(copies.pop(), 0.01, True), spec, [grid]), device, 3)
    # a Cholesky factor, and every column reaching all columns before it
    operations = width**3 / 3 + width**3
    share = (operations / solved) / (2 * width**3 / product)
    return {"width": width, "seconds": solved, "product_seconds": product, "share_of_product_flops": share}


def _slopes(method: str, size: Size, threads: int, patience: Patience, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """How the time grows when one of the sizes doubles: 1 is in proportion."""
    before = next(row for row in rows if row["method"] == method)["seconds"]
    grown = {name: replace(size, **{name: 2 * getattr(size, name)}) for name in ("tokens", "calls", "blocks")}
    return {"method": method} | {
        name: _in_own_process(measure_time, method, larger, threads, patience)["seconds"] / before / 2
        for name, larger in grown.items()
    }


def _in_own_process(measured: Callable[..., dict[str, Any]], *arguments: object) -> dict[str, Any]:
    """So that no memory of one method is there when the next is measured."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measured, arguments)


def _table(result: dict[str, Any]) -> str:
    line = "{:<20} {:>8} {:>12} {:>11} {:>7} {:>6} {:>8} {:>11}".format
    lines = [line("method", "x float", "quartiles", "of fastest", "rounds", "quiet", "peak MB", "of allowed")]
    for row in result["methods"]:
        times = (f"{row['ratio']:.2f}", "{:.2f} {:>5.2f}".format(*row["quartiles"]), f"{row['fastest_ratio']:.2f}")
        memory = (f"{row['peak_bytes'] / 1e6:.0f}", f"{row['peak_share']:.2f}")
        lines.append(line(row["method"], *times, row["rounds"], row["quiet_rounds"], *memory))
    for row in result.get("slopes", []):
        grown = ", ".join(f"{name} x{2 * row[name]:.2f}" for name in ("tokens", "calls", "blocks"))
        lines.append(f"{row['method']:<20} doubling costs {grown}")
    if "solver" in result:
        found = result["solver"]
        lines.append(
            f"GPTQ of {found['width']}x{found['width']}: {found['share_of_product_flops']:.2f} of a product's FLOP/s"
        )
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.calibrate", description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--method", nargs="+", choices=RECIPES, default=list(RECIPES))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5, help="quiet rounds to wait for")
    parser.add_argument("--seconds", type=float, default=90, help="time each method for so long at least")
    parser.add_argument("--slopes", action="store_true", help="also double tokens, calls and blocks")
    parser.add_argument("--solver", type=int, nargs="?", const=5120, help="also time GPTQ's solver at this width")
    parser.add_argument("--page", action="store_true", help="write a dated page into benchmarks/results")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
