"""How much of a channel's magnitude moves from the act into the weight."""

from __future__ import annotations

from torch import Tensor

LARGEST = 1e5


def smoothing(act: Tensor, weight: Tensor, alpha: float | Tensor, beta: float | Tensor, least: float = 1e-5) -> Tensor:
    """s = act^alpha / weight^beta of the largest magnitudes of each channel; 1 where a channel carries nothing. One row
    for each exponent in a column of them."""
    alive = (act > 0) & (weight > 0)
    act, weight = (absmax.clamp(min=1e-8).where(alive, 1.0) for absmax in (act, weight))
    return (act.pow(alpha) / weight.pow(beta)).clamp(least, LARGEST)
