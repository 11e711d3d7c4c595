"""A network of which every tensor is listed; layers of ours can be one in its own layout."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from llmc.verify.wan import Expected, Linear, Naming


@dataclass(frozen=True)
class Listed:
    """One network: every tensor of it, the linears that are quantized among them without their leaf."""

    naming: Naming
    dim: int
    layers: int
    tensors: tuple[Expected, ...]
    images: bool = False

    def linears(self) -> Iterator[Linear]:
        """Every linear of its blocks."""
        return (each for each in self.tensors if isinstance(each, Linear))

    def float_tensors(self) -> Iterator[Expected]:
        """Everything else, and the linears' biases with it."""
        return (each for each in self.tensors if not isinstance(each, Linear))

    def optional(self) -> Iterator[Expected]:
        """None of them has any."""
        return iter(())

    def multipliers(self) -> Iterator[Expected]:
        """None of them has any: modulations absorb smoothing."""
        return iter(())


def stacked(
    naming: Naming, native: str, ours: Mapping[str, int], k: int, quantized: bool = True, carries: bool = False,
    bias: bool = True,
) -> Iterator[Expected]:  # fmt: skip
    """Layers of ours, by their rows, that are one in the own layout, with their biases."""
    parts = tuple(ours.items())
    for own, those in [(native, parts)] if naming == "native" else [(name, ((name, rows),)) for name, rows in parts]:
        name, n = those[0][0], sum(rows for _, rows in those)
        if quantized:
            yield Linear(own, name, (n, k), sources=those, carries=carries)
        else:
            yield Expected(f"{own}.weight", f"{name}.weight", (n, k))
        if bias:
            yield Expected(f"{own}.bias", f"{name}.bias", (n,))
