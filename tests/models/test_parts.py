"""Who absorbs a scale in a block: what fits is kept, and what does not is said."""

from __future__ import annotations

import pytest
from torch import nn

from llmc.errors import AdapterError
from llmc.models.parts import LinearGroup, Modulation, Part, Rows


class Gated(nn.Module):
    """A norm that eight values of time modulate, and a gated linear after it."""

    def __init__(self, bias: bool = True, time: int = 8) -> None:
        super().__init__()
        self.modulation = nn.Linear(time, 3 * 16, bias=bias)
        self.gated = nn.Linear(16, 2 * 32)
        self.out = nn.Linear(32, 16)


def part(*groups: LinearGroup) -> Part:
    return Part("transformer", nn.Module(), [], {"Gated": groups})


def test_a_modulation_may_read_fewer_values_than_the_model_is_wide() -> None:
    fold = (Modulation("modulation", 3, shift=(0,), scale=(1,)),)
    (group,) = part(LinearGroup(("gated",), fold)).groups(Gated())
    assert group.fold == fold and str(fold[0]) == "modulation (chunks 0 and 1 of 3)"


def test_of_several_modulations_the_one_that_has_as_many_rows_is_taken() -> None:
    six, three = (Modulation("modulation", chunks, shift=(0,), scale=(1,)) for chunks in (6, 3))
    (group,) = part(LinearGroup(("gated",), (six, three))).groups(Gated())
    assert group.fold == (three,)


@pytest.mark.parametrize(
    ("fold", "block", "message"),
    [
        (Modulation("modulation", 6, shift=(0,), scale=(1,)), Gated(), r"modulation has 48 rows, not 6 times 16"),
        (Modulation("modulation", 3, shift=(), scale=(1,)), Gated(bias=False), r"modulation has no bias"),
        (Rows("gated", 3, 0), Gated(), r"gated has 64 rows, not 3 times 16"),
    ],
)
def test_a_fold_that_does_not_fit_is_said(fold: Modulation | Rows, block: nn.Module, message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        part(LinearGroup(("gated",), (fold,))).groups(block)


def test_attentions_are_found_by_the_names_of_their_linears() -> None:
    block = nn.Module()
    block.inner = nn.ModuleDict({"to_query": nn.Linear(4, 4), "to_key": nn.Linear(4, 4)})
    block.to_q, block.to_k = nn.Linear(4, 4), nn.Linear(8, 4)
    groups = (LinearGroup(("inner.to_query", "inner.to_key")), LinearGroup(("to_q",)), LinearGroup(("to_k",)))
    found = Part("transformer", nn.Module(), [], {"Module": groups}).attentions(block)
    assert found == {"": False, "inner": True}
