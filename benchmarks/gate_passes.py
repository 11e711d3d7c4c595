"""How often the gate passes models that do not differ, and models that do: `python -m benchmarks.gate_passes`.

Figures of two models are drawn at random: each sample has its own difficulty, each video its own chance. Without a true
difference every pass is false.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch

from llmc.eval.gate import decide

SHAPES = ((6, 1), (8, 2), (16, 1), (16, 2))  # samples and seeds


def normal(shape: tuple[int, int], better_by: float, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Figures such as PSNR: a difference that depends on the sample and on the seed, each with a deviation of 1."""
    one, other = (
        torch.randn(shape[0], 1, generator=generator) + torch.randn(shape, generator=generator) for _ in range(2)
    )
    difficulty = 3 * torch.randn(shape[0], 1, generator=generator)
    return difficulty + one - better_by, difficulty + other


def lognormal(
    shape: tuple[int, int], better_by: float, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor]:
    """Errors that differ by factors: a few samples have most of the error."""
    one, other = normal(shape, better_by, generator)
    return (one / 2).exp(), (other / 2).exp()


def passes(
    draw: Callable[[tuple[int, int], float, torch.Generator], tuple[torch.Tensor, torch.Tensor]],
    shape: tuple[int, int],
    better_by: float,
    pairs: int,
    seed: int,
) -> float:
    """The share of simulated pairs of models that the gate passes."""
    generator = torch.Generator().manual_seed(seed)
    passed = 0
    for _ in range(pairs):
        ours, theirs = draw(shape, better_by, generator)
        passed += decide(ours.tolist(), theirs.tolist(), "lower").passed
    return passed / pairs


def main() -> None:
    """Print a row for each shape and kind of figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    print("samples × seeds  figures    passes without a difference  with one of 1")
    for shape in SHAPES:
        for draw in (normal, lognormal):
            shares = [passes(draw, shape, by, options.pairs, options.seed) for by in (0.0, 1.0)]
            print(f"{shape[0]:>7} × {shape[1]:<5}  {draw.__name__:<9}  {shares[0]:>27.1%}  {shares[1]:>13.1%}")


if __name__ == "__main__":
    main()
