"""What is seen to hold NaN or infinity is told by the first place of the first call."""

from __future__ import annotations

import inspect

import pytest
import torch

from llmc.calib.finite import Finite, called_with
from llmc.calib.running import at_call
from llmc.calib.store import Call
from llmc.errors import CalibrationError

NAN, INF = float("nan"), float("inf")


def test_the_first_place_of_the_first_call_is_told() -> None:
    finite = Finite()
    for number in range(4):
        with at_call(Call(number // 2, number % 2, None, "cond", number=number)):
            for place in ("what a reads", "what b reads"):
                wrong = {(1, "what b reads"): NAN, (2, "what a reads"): INF}.get((number, place), 0.0)
                finite.see(place, torch.tensor([[1.0, wrong, 2.0]]))
    with pytest.raises(CalibrationError, match=r"^what b reads .*, at first in call 1 \(sample 0, step 1, cond\)"):
        finite.check()


def test_numbers_pass_whatever_their_size_and_calls_without_any() -> None:
    finite = Finite()
    finite.check()
    with at_call(Call(0, 0, None, "")):
        finite.see("large", torch.full((9, 9), 65504, dtype=torch.float16))
        finite.see("larger", torch.full((9, 9), -3e38))
    finite.check()


def test_arguments_are_told_by_their_names_and_a_mask_may_hide_by_infinity() -> None:
    def forward(
        x: torch.Tensor, parts: list[torch.Tensor], attention_mask: torch.Tensor, scale: float = INF
    ) -> None: ...

    mask = torch.tensor([0.0, -INF, NAN])
    found = called_with(
        inspect.signature(forward), (torch.ones(2),), {"parts": [torch.ones(1)], "attention_mask": mask}
    )
    assert list(found) == ["x", "parts[0]", "attention_mask"]
    assert (
        found["attention_mask"].isnan().tolist() == [False, False, True] and not found["attention_mask"].isinf().any()
    )
