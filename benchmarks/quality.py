"""What each recipe leaves of the error of plain rounding at the same bits, on a small trained model.

python -m benchmarks.quality [--model assets/tiny_wan_i2v] [--variant clean outlier] [--recipe NAME ...]
                             [--max-calls 16 first16 all] [--judged 4] [--forced] [--json]

Errors are powers, |difference|^2 / |float|^2. Teacher-forced: of the network's output, fed what the float run fed it;
endpoint: of the final latent of a run on its own. Each ratio is given with the interval that 90 % of resampled sets of
(sample, seed) give. With --max-calls each recipe is calibrated on so many calls, spread as a run spreads them, or on so
many of the first ones.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from benchmarks.page import write_page
from llmc.algorithms.awq import Awq
from llmc.algorithms.base import Algorithm
from llmc.algorithms.flexsmooth import FlexSmooth
from llmc.algorithms.gptq import GPTQ
from llmc.algorithms.hadamard import Hadamard
from llmc.algorithms.itersmooth import IterSmooth
from llmc.algorithms.lowrank import LowRank
from llmc.algorithms.rtn import RTN
from llmc.algorithms.smoothquant import SmoothQuant
from llmc.algorithms.static import Static
from llmc.algorithms.timestep import Timestep
from llmc.algorithms.tune import Tune
from llmc.calib.budget import spread_calls
from llmc.calib.record import record_calls
from llmc.calib.samples import read_samples
from llmc.calib.store import Call, CallStore
from llmc.calib.teacher import relative_error, teacher_forced_errors
from llmc.engine.blocks import quantize_on_calls
from llmc.engine.network import is_carried, prepare, rotation_of
from llmc.export.comfyui.exporter import ComfyUI
from llmc.layers.linear import LayerState, in_mode
from llmc.layers.target import Target, carrier_of
from llmc.models.loaded import LoadedModel
from llmc.models.samples import Sample, Sampling, Video
from llmc.models.wan import WanI2V
from llmc.numerics.spec import LayerSpec, TensorSpec
from llmc.policy.rules import Policy

HOW = Sampling(height=64, width=64, num_frames=17, steps=12, guidance_scale=1.5, seed=42)
SMOOTH = SmoothQuant(alpha="search")
SOLVE = GPTQ(range="search")
AIM = GPTQ(range="search", target="asymmetric")
TURN = Hadamard(matrix="regular")
SHIPPED = (Hadamard(matrix="regular", gate=False), RTN())  # what others rotate and round without data
MAX_ROWS = 2048
FIRST = "first"  # before how many of the first calls
DRAWS = 2000
KINDS = ("teacher_forced", "endpoint")  # of errors


@dataclass(frozen=True)
class Recipe:
    """A row of the table; its error is given as a share of that of `against`."""

    name: str
    grid: str
    methods: tuple[Algorithm, ...]
    against: str = "RTN"
    steps: float = 1.0  # share of the steps that it is calibrated on, from the first
    calls: str = "all"  # that it is calibrated on: so many that are spread, or so many of the first
    target: Target | None = None  # only what it can store is smoothed


def rotated(grid: str) -> tuple[Recipe, ...]:
    """ConvRot without data, and what calibration makes of it; in ComfyUI not every input can be smoothed."""
    return (
        Recipe("ConvRot", grid, SHIPPED),
        Recipe("ConvRot, GPTQ", grid, (TURN, SOLVE), against="ConvRot"),
        Recipe("smoothing, ConvRot, GPTQ", grid, (SMOOTH, TURN, SOLVE), against="ConvRot"),
        Recipe("the same for ComfyUI", grid, (SMOOTH, TURN, SOLVE), against="ConvRot", target=ComfyUI()),
    )


RECIPES = (
    Recipe("smoothing", "W8A8", (SMOOTH,)),
    Recipe("AWQ", "W8A8", (Awq(),)),
    Recipe("IterSmooth", "W8A8", (IterSmooth(),)),
    Recipe("FlexSmooth", "W8A8", (FlexSmooth(),)),
    Recipe("static", "W8A8 static", (Static(),)),
    Recipe("static of least output error", "W8A8 static", (Static(range="output"),), against="static"),
    Recipe("per step", "W8A8 static", (Timestep(),), against="static"),
    Recipe("smoothing, static", "W8A8 static", (SMOOTH, Static())),
    Recipe("smoothing, per step", "W8A8 static", (SMOOTH, Timestep()), against="smoothing, static"),
    Recipe("GPTQ", "W4A8", (SOLVE,)),
    Recipe("smoothing, GPTQ", "W4A8", (SMOOTH, SOLVE)),
    Recipe("smoothing, GPTQ asymmetric", "W4A8", (SMOOTH, AIM)),
    Recipe("smoothing, low rank, GPTQ asymmetric", "W4A8", (SMOOTH, LowRank(), AIM)),
    Recipe("full stack", "W4A4 g64", (SMOOTH, Hadamard(), LowRank(), SOLVE)),
    Recipe("GPTQ, tuned", "W4A8", (SOLVE, Tune()), against="GPTQ"),
    Recipe("smoothing, low rank, GPTQ asymmetric, tuned", "W4A8", (SMOOTH, LowRank(), AIM, Tune())),
    Recipe("full stack, tuned", "W4A4 g64", (SMOOTH, Hadamard(), LowRank(), SOLVE, Tune())),
    Recipe("GPTQ asymmetric against symmetric", "W4A8", (AIM,), against="GPTQ"),
    Recipe("the same, smoothed", "W4A8", (SMOOTH, AIM), against="smoothing, GPTQ"),
    Recipe("GPTQ on the first quarter of the steps against all", "W4A8", (SOLVE,), against="GPTQ", steps=0.25),
    Recipe("the same, smoothed ", "W4A8", (SMOOTH, SOLVE), against="smoothing, GPTQ", steps=0.25),
    *(row for grid in ("W8A8", "W4A8 levels", "W4A4") for row in rotated(grid)),
)


def main() -> None:
    """Print a table, or one JSON object as the last line."""
    arguments = _arguments()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rows = [row for variant in arguments.variant for row in measure(arguments, variant, device)]
    if arguments.page:
        write_page("quality", _table(rows), device)
    print(json.dumps({"rows": rows}) if arguments.json else _table(rows))


def measure(arguments: argparse.Namespace, variant: str, device: torch.device) -> Iterator[dict[str, Any]]:
    """Every recipe on one variant of the model."""
    bench = Bench(arguments, variant, device)
    kinds = KINDS[:1] if arguments.forced else KINDS
    known: dict[Recipe, Errors] = {}
    asked = [recipe for recipe in RECIPES if not arguments.recipe or recipe.name in arguments.recipe]
    for recipe, calls in product(asked, arguments.max_calls):
        recipe = replace(recipe, calls=calls)
        against = _against(recipe)
        for each in (against, recipe):
            if each not in known:
                known[each] = bench.errors(each)
        ours, theirs = known[recipe], known[against]
        name = recipe.name if calls == "all" else f"{recipe.name}, {calls} calls"
        row: dict[str, Any] = {"variant": variant, "grid": recipe.grid, "recipe": name, "against": against.name}
        for kind in kinds:
            row[kind] = ratio(getattr(ours, kind), getattr(theirs, kind))
        print(f"{variant} {recipe.grid} {name}: {row['teacher_forced']['ratio']:.4f}", flush=True)
        yield row


def _against(recipe: Recipe) -> Recipe:
    """What its error is given as a share of; plain rounding is calibrated on nothing."""
    found = [other for other in RECIPES if (other.grid, other.name) == (recipe.grid, recipe.against)]
    return replace(found[0], calls=recipe.calls) if found else Recipe("RTN", recipe.grid, (RTN(),))


@dataclass(frozen=True)
class Errors:
    """Of one quantized network: one number for each (sample, seed)."""

    teacher_forced: list[float]
    endpoint: list[float]  # of none, where no videos are made


class Bench:
    """A float pipeline, its calls on the calibration samples, and its runs on those that it is judged on."""

    def __init__(self, arguments: argparse.Namespace, variant: str, device: torch.device) -> None:
        self.adapter, self.device, self.forced = WanI2V(), device, arguments.forced
        model: Path = arguments.model
        self.pipeline = self.adapter.load(model, "auto", str(device))
        if variant != "outlier":
            from diffusers import WanTransformer3DModel

            other = WanTransformer3DModel.from_pretrained(model, subfolder=f"transformer_{variant}")
            self.pipeline.register_modules(transformer=other.to(device).eval())
        self.network = prepare(self.adapter.parts(self.pipeline)[0], Policy(_grid("W8A8")), ())
        assets = model.parent / "wan_i2v"
        calib = read_samples(assets / "calib", True, arguments.samples)
        judged = read_samples(assets / "eval", True, arguments.judged or arguments.samples)
        self.calls = CallStore()
        self._run([(i, s, HOW.model_copy(update={"seed": HOW.seed + i})) for i, s in enumerate(calib)], self.calls)
        self.judged = [
            (seed * len(judged) + i, sample, HOW.model_copy(update={"seed": 1000 + seed}))
            for seed in range(arguments.seeds) for i, sample in enumerate(judged)
        ]  # fmt: skip
        self.truth = CallStore()
        videos = self._run(self.judged, self.truth, keep_outputs=True)
        self.videos = [] if self.forced else videos

    def errors(self, recipe: Recipe) -> Errors:
        """Quantize by the recipe, and judge."""
        for layer in self.network.layers.values():
            layer.state, layer.spec = LayerState(), _grid(recipe.grid)
        targets = [] if recipe.target is None else [recipe.target]
        for group in self.network.groups:
            specs = [layer.spec for layer in group.linears]
            group.may_scale = is_carried(carrier_of([module for _, module in group.fold]), specs, targets)
            group.rotation = rotation_of(specs, targets)
        quantize_on_calls(replace(self.network, recipe=recipe.methods), self._calls_of(recipe), MAX_ROWS)
        with in_mode(self.network.layers.values(), "quantized"):
            forced = teacher_forced_errors(self.network.part, self.truth, self.device)
            videos = [] if self.forced else self._run(self.judged, None)
        return Errors(
            [fmean(error for step in forced[index].values() for error in step) for index, _, _ in self.judged],
            [relative_error(ours.latents, float_.latents) for ours, float_ in zip(videos, self.videos, strict=True)],
        )

    def _calls_of(self, recipe: Recipe) -> CallStore:
        """The calls that a recipe is calibrated on."""
        last, branches = HOW.steps * recipe.steps, self.adapter.branches_of(HOW)
        if recipe.calls == "all":
            return self.calls if recipe.steps == 1 else self.calls.where(lambda call: call.step < last)
        count = int(recipe.calls.removeprefix(FIRST))
        if recipe.calls.startswith(FIRST):
            return self.calls.where(lambda call: call.number < count)
        samples = len({call.sample for call in self.calls.headers()})
        spread = spread_calls(samples, HOW.steps, len(branches), count)

        def is_spread(call: Call) -> bool:
            return call.step * len(branches) + branches.index(call.branch) in spread[call.sample]

        return self.calls.where(is_spread)

    def _run(
        self, planned: list[tuple[int, Sample, Sampling]], store: CallStore | None, keep_outputs: bool = False
    ) -> list[Video]:
        part = self.network.part
        stores = {} if store is None else {part.name: store}
        return record_calls(LoadedModel(self.adapter, self.pipeline), [part], planned, stores, keep_outputs)


def ratio(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """The ratio of the means, and the interval of 90 % of it under resampling."""
    a, b = torch.tensor(ours, dtype=torch.float64), torch.tensor(theirs, dtype=torch.float64)
    drawn = torch.randint(len(a), (DRAWS, len(a)), generator=torch.Generator().manual_seed(0))
    ratios = (a[drawn].mean(1) / b[drawn].mean(1)).sort().values
    low, high = ratios[int(0.05 * DRAWS)], ratios[int(0.95 * DRAWS)]
    return {"ratio": float(a.mean() / b.mean()), "low": float(low), "high": float(high)}


def _grid(name: str) -> LayerSpec:
    if name == "W4A8 levels":
        weight = TensorSpec(format="codebook4", granularity="per_channel")
        return LayerSpec(weight=weight, act=TensorSpec(format="int8", granularity="per_token"))
    bits, _, group = name.partition(" g")
    own: dict[str, Any] = {"granularity": "per_group", "group_size": int(group)} if group else {}
    act = {"granularity": "per_tensor", "dynamic": False} if bits.endswith("static") else own
    return LayerSpec(
        weight=TensorSpec.model_validate({"format": f"int{bits[1]}", "granularity": "per_channel"} | own),
        act=TensorSpec.model_validate({"format": f"int{bits[3]}", "granularity": "per_token"} | act),
    )


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [f"{'variant':<9}{'grid':<13}{'recipe':<52}{'teacher-forced':>24}{'endpoint':>24}"]
    for row in rows:
        shown = "".join(f"{row[k]['ratio']:>8.4f} [{row[k]['low']:.4f}, {row[k]['high']:.4f}]".rjust(26)
                        for k in KINDS if k in row)  # fmt: skip
        lines.append(f"{row['variant']:<9}{row['grid']:<13}{row['recipe']:<50}{shown}")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.quality", description=__doc__)
    parser.add_argument(
        "--model", type=Path, default=Path("assets/tiny_wan_i2v"), help="pipeline folder, samples beside"
    )
    parser.add_argument("--variant", nargs="+", default=["clean", "outlier"], help="outlier, or X of transformer_X")
    parser.add_argument("--recipe", nargs="+", choices=[recipe.name for recipe in RECIPES])
    parser.add_argument("--seeds", type=int, default=2, help="noises that each sample is judged with")
    parser.add_argument("--samples", type=int, default=None, help="only the first samples, of calibration and judging")
    parser.add_argument("--judged", type=int, default=None, help="only the first samples, of judging")
    parser.add_argument("--forced", action="store_true", help="only teacher-forced errors: no videos are made")
    parser.add_argument("--max-calls", nargs="+", default=["all"], help="calls to calibrate on: 16, first16, or all")
    parser.add_argument("--page", action="store_true", help="write a dated page into benchmarks/results")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
