"""AWQ scales, clips, or does both."""

from __future__ import annotations

import pytest
import torch

from llmc.algorithms.awq import Awq
from tests.algorithms.test_smoothing import block


@torch.no_grad()
@pytest.mark.parametrize(("scale", "clip"), [(True, True), (True, False), (False, True)])
def test_each_half_can_be_left_out(scale: bool, clip: bool) -> None:
    step, method = block(), Awq(scale=scale, clip=clip)
    (group,) = step.groups
    group.stats["mean"] = group.stats["rows"].abs().mean(0)
    if not scale:
        del group.stats["mean"]
    method.apply(step)
    assert method.needs >= group.stats.keys() - {"absmax"}
    assert method.leaves == {word for word, wanted in {"scale": scale, "rounded": clip}.items() if wanted}
    for layer in group.linears:
        assert bool(layer.state.transforms) == scale
        assert (layer.state.rounded is not None) == clip


def test_neither_half_is_refused() -> None:
    with pytest.raises(ValueError, match="would do nothing; write `method: RTN`"):
        Awq(scale=False, clip=False)
