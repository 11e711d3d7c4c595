"""What only a GPU can tell: whether its products and formats are right, time and memory at the sizes of Wan 14B.

python -m benchmarks.gpu [--into FOLDER]

Without a GPU everything runs all the same, on small shapes: so that the script is known to work before one is lent.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, scaled_dot_product_attention

from benchmarks.measure import fastest, peak_bytes
from benchmarks.page import RESULTS, write_page
from llmc.calib.observers import Awaited, Gram
from llmc.errors import UnsupportedSpec
from llmc.layers.kernels import arithmetic, multiply
from llmc.layers.linear import Mode, QuantLinear, in_mode
from llmc.numerics.clip import weight_scales
from llmc.numerics.formats.base import Format
from llmc.numerics.gptq import Factor, Grid, gptq
from llmc.numerics.quantize import fake_quantize, quantize, sliced
from llmc.numerics.spec import LayerSpec, TensorSpec
from llmc.plugin import discover


@dataclass(frozen=True)
class Size:
    """Of a block, and of what it reads."""

    width: int
    ffn: int
    heads: int
    tokens: int


WAN_14B, SMALL = Size(5120, 13824, 40, 32760), Size(320, 864, 5, 256)
RUNS = 3  # of which the fastest counts


def per_row(name: str) -> LayerSpec:
    """A scale for each channel of the weight and for each token."""
    grids = (TensorSpec(format=name, granularity=kind) for kind in ("per_channel", "per_token"))
    return LayerSpec(weight=next(grids), act=next(grids))


def in_groups(name: str) -> LayerSpec:
    """As a format with groups of its own has it, on both sides."""
    return LayerSpec(weight=TensorSpec(format=name), act=TensorSpec(format=name))


GRIDS = {
    "int8": per_row("int8"),
    "fp8_e4m3": per_row("fp8_e4m3"),
    "mxfp8": in_groups("mxfp8"),
    "nvfp4": in_groups("nvfp4"),
}


@dataclass(frozen=True)
class Finding:
    """One line of the page; `right` is left out where nothing is claimed."""

    what: str
    figures: str
    right: bool | None = None

    def __str__(self) -> str:
        verdict = {None: "", True: "ok", False: "WRONG"}[self.right]
        return f"{self.what:<48}  {self.figures:<56}  {verdict}".rstrip()


def modes_of(grids: LayerSpec) -> tuple[Mode, ...]:
    """Those in which such layers can run once they are rounded."""
    return ("quantized", "real") if grids.real_problem() is None else ("quantized",)


def products(size: Size, device: torch.device) -> Iterator[Finding]:
    """Sums of int8 codes are exact, those of fp8 codes nearly; also of few rows and of sizes that are no multiples."""
    for rows, inputs, outputs in ((1, 16, 32), (17, 20, 3), (33, size.width, 64), (64, size.ffn, size.width)):
        for dtype, close in ((torch.int8, 0.0), (torch.float8_e4m3fn, 1e-3)):
            act, weight = (codes(shape, dtype, device) for shape in ((rows, inputs), (outputs, inputs)))
            what = f"{dtype} {rows} x {inputs} x {outputs}".removeprefix("torch.")
            try:
                found = multiply(act, weight).double()
            except (RuntimeError, UnsupportedSpec) as error:
                yield Finding(what, str(error).splitlines()[0][:56], False)
                continue
            wanted = act.double() @ weight.double().T
            error = float((found - wanted).norm() / wanted.norm())
            yield Finding(what, f"error {error:.1e} by {arithmetic(weight).split()[0]}", error <= close)


def codes(shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Any of them."""
    return torch.randint(-127, 128, shape).to(torch.float32).to(dtype).to(device)


def formats(size: Size, device: torch.device) -> Iterator[Finding]:
    """Every format rounds as on the CPU, to the bit."""
    rows = torch.cat([torch.randn(64, 1024) * 10.0**power for power in (-30, -8, -2, 0, 4)])
    for name, form in discover("llmc.numerics.formats", Format).items():
        spec = TensorSpec(format=name, granularity=None if form.group_size else "per_token")
        wanted, found = fake_quantize(rows, spec), fake_quantize(rows.to(device), spec).cpu()
        differ = int((wanted != found).sum())
        yield Finding(f"{name} as on the CPU", f"{differ} of {rows.numel()} values differ", differ == 0)


def linears(size: Size, device: torch.device) -> Iterator[Finding]:
    """Time and memory of one linear, float, simulated and real; real outputs are those that were simulated."""
    for inputs, outputs in ((size.width, size.ffn), (size.ffn, size.width)):
        layer = nn.Linear(inputs, outputs, device=device, dtype=torch.bfloat16)
        x = torch.randn(1, size.tokens, inputs, device=device, dtype=torch.bfloat16)
        base = yield from timed(f"{inputs} to {outputs}, float", partial(layer, x), device)
        for name, grids in GRIDS.items():
            quantized = QuantLinear(layer, grids)
            quantized.round()
            simulated = None
            for mode in modes_of(grids):
                with in_mode([quantized], mode):
                    yield from timed(f"{inputs} to {outputs}, {name} {mode}", partial(quantized, x), device, base)
                    some = quantized(x[:, :256]).float()
                if simulated is not None:
                    error = float((some - simulated).norm() / simulated.norm())
                    yield Finding(f"{inputs} to {outputs}, {name}", f"real from simulated {error:.1e}", error <= 0.01)
                simulated = some


class Block(nn.Module):
    """The linears of a Wan block and its self-attention."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.heads = size.heads
        self.query, self.key, self.value, self.out, self.cross_query, self.cross_out = (
            nn.Linear(size.width, size.width) for _ in range(6)
        )
        self.up, self.down = nn.Linear(size.width, size.ffn), nn.Linear(size.ffn, size.width)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        attended = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        x = x + self.out(attended)
        x = x + self.cross_out(self.cross_query(x))
        x = x + self.down(gelu(self.up(x), approximate="tanh"))
        return x


def blocks(size: Size, device: torch.device) -> Iterator[Finding]:
    """A whole block that stays on the device."""
    block = Block(size).to(device, torch.bfloat16)
    x = torch.randn(1, size.tokens, size.width, device=device, dtype=torch.bfloat16)
    base = yield from timed("block, float", partial(block, x), device)
    floats = dict(block.named_children())
    for name, grids in GRIDS.items():
        layers = {place: QuantLinear(layer, grids) for place, layer in floats.items()}  # type: ignore[arg-type]
        for place, layer in layers.items():
            layer.round()
            setattr(block, place, layer)
        for mode in modes_of(grids):
            with in_mode(layers.values(), mode):
                yield from timed(f"block, {name} {mode}", partial(block, x), device, base)


def solver(size: Size, device: torch.device) -> Iterator[Finding]:
    """GPTQ of both widths of a block, from its Gram matrix on."""
    grid = TensorSpec(format="int4", granularity="per_channel")
    for inputs, outputs in ((size.width, 3 * size.width), (size.ffn, size.width)):
        x = torch.randn(size.tokens, inputs, device=device, dtype=torch.bfloat16)
        weight = torch.randn(outputs, inputs, device=device)
        gram = Gram(Awaited(1, 1, inputs, device))
        yield from timed(f"Gram matrix of {inputs}", partial(gram.update, x, x), device)
        few = x[:, :64].double()
        wanted = (RUNS + 1) * few.T @ few  # each run added to it
        error = float((gram.result()[:64, :64] - wanted).norm() / wanted.norm())
        yield Finding(f"Gram matrix of {inputs}", f"error {error:.1e}", error <= 1e-5)
        scale = weight_scales(sliced(weight, grid), grid, "mse")
        yield from timed(f"GPTQ, {inputs} to {outputs}", partial(solved, weight, gram.result(), grid, scale), device)
        rounded = solved(weight, gram.result(), grid, scale)
        some = x[:: max(1, size.tokens // 512)].float()
        plain = quantize(weight, grid, *scale).dequantize()
        ratio = float(linear(some, rounded - weight).square().sum() / linear(some, plain - weight).square().sum())
        yield Finding(f"GPTQ, {inputs} to {outputs}", f"error {ratio:.3f} of plain rounding", ratio < 1)


def solved(weight: Tensor, gram: Tensor, grid: TensorSpec, scale: Grid) -> Tensor:
    """The weight that GPTQ rounds; the Gram matrix stays as it is."""
    factor = Factor.of(gram.clone(), 0.01, act_order=True)
    return gptq([weight], factor, grid, [scale])[0].rounded.dequantize()


def timed(
    what: str, work: Callable[[], object], device: torch.device, base: float | None = None
) -> Generator[Finding, None, float]:
    """How long it takes, and as a multiple of a float run; what it holds beside what was there."""
    peak = peak_bytes(work, device)  # the first run, which sets libraries up
    seconds = fastest(work, device, RUNS)
    share = "" if base is None else f", {seconds / base:.2f} of float"
    yield Finding(what, f"{seconds * 1e3:.2f} ms{share}, {peak / 1e9:.3f} GB")
    return seconds


SECTIONS = (products, formats, linears, blocks, solver)


@torch.no_grad()
def findings(size: Size, device: torch.device) -> Iterator[Finding]:
    """Of every section; where one ends early the others still run."""
    torch.manual_seed(0)
    for section in SECTIONS:
        try:
            yield from section(size, device)
        except RuntimeError as error:
            yield Finding(section.__name__, str(error).splitlines()[0], False)
        if device.type == "cuda":
            torch.cuda.empty_cache()


def main(words: Sequence[str] | None = None) -> int:
    """Print what is found, and write it as a page; the exit code tells whether all of it is right."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--into", type=Path, default=RESULTS, help="the folder of the page")
    into = parser.parse_args(words).into
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = WAN_14B if device.type == "cuda" else SMALL
    lines = [f"{size}" if device.type == "cuda" else f"no GPU: shapes are small, {size}"]
    print(lines[0], flush=True)
    right = True
    for finding in findings(size, device):
        print(finding, flush=True)
        lines.append(str(finding))
        right = right and finding.right is not False
    print(write_page("gpu", "\n".join(lines), device, folder=into))
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
