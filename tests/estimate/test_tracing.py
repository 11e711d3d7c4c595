"""What is counted of code that runs on shapes."""

from __future__ import annotations

import torch
from torch.nn.functional import scaled_dot_product_attention

from llmc.estimate.tracing import traced


def test_what_is_let_go_is_counted_no_more_and_the_most_is_kept() -> None:
    with traced() as trace:
        x = torch.empty(100, 10, device="meta")
        y = x + 1
        assert trace.held == 8000
        del y
        assert (trace.held, trace.peak) == (4000, 8000)
        trace.forget()
        assert trace.peak == 4000


def test_views_and_changes_in_place_take_nothing() -> None:
    weight = torch.empty(10, 10, device="meta")  # not made while it is counted, as the weights of a network are not
    with traced() as trace:
        x = torch.empty(10, 10, device="meta")
        x.T[:5].add_(weight.T[:5])
    assert trace.peak == 400


def test_the_host_is_another_place() -> None:
    with traced() as trace:
        x = torch.empty(100, device="meta")
        kept = torch.cat([x.cpu(), x.to("cpu", copy=True)])
        assert (trace.held, trace.host) == (400, 800)
        back = kept.to(x.device, torch.float64)
        assert trace.is_on_host(kept) and not trace.is_on_host(back)
    assert trace.peak >= 400 + 1600


def test_code_that_asks_for_values_goes_on() -> None:
    with traced():
        x = torch.empty(3, device="meta")
        assert float(x.sum()) == 0.5 and x.tolist() == [0.5] * 3
        assert bool((x > 0).all()) and int(x.argmax()) == 0 and not torch.equal(x, x)


def test_products_and_attention_are_counted_and_fused_attention_holds_no_scores() -> None:
    x = torch.empty(1, 2, 64, 8, device="meta")
    found = {}
    for fused in (True, False):
        with traced(fused) as trace:
            torch.empty(4, 5, device="meta") @ torch.empty(5, 6, device="meta")
            assert trace.flops == 2 * 4 * 5 * 6
            trace.forget()
            scaled_dot_product_attention(x, x, x)
            assert trace.flops == 2 * 2 * 2 * 64 * 64 * 8
            found[fused] = trace.peak
    assert found[True] < 2 * 64 * 64 * 4 <= found[False]
