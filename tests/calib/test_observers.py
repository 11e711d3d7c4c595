"""What is measured of inputs, against the plain formula."""

from __future__ import annotations

import torch

from llmc.calib.observers import OBSERVERS, PANEL, Rows


def test_moments_are_sums_over_all_tokens_of_all_calls() -> None:
    generator = torch.Generator().manual_seed(0)
    calls = [torch.randn(2, 7, PANEL + 40, generator=generator) for _ in range(3)]
    floats = [call + 0.1 * torch.randn(call.shape, generator=generator) for call in calls]
    q, x = (torch.cat(tensors).flatten(0, 1).double() for tensors in (calls, floats))
    for name, wanted, limit in (("gram", q.T @ q, 1e-5), ("gram64", q.T @ q, 1e-13),
                                ("cross", x.T @ q, 1e-5), ("cross64", x.T @ q, 1e-13)):  # fmt: skip
        observer = OBSERVERS[name](3, 8)
        for call, reference in zip(calls, floats, strict=True):
            observer.update(call, reference)
        found = observer.result()
        assert (found.double() - wanted).norm() < limit * wanted.norm(), name
        assert name.startswith("cross") or torch.equal(found, found.T)


def test_sampled_rows_do_not_keep_the_tensors_that_they_were_taken_from() -> None:
    observer = OBSERVERS["rows"](4, 8)
    for _ in range(4):
        x = torch.randn(1, 100, 16)
        observer.update(x, x)
    assert isinstance(observer, Rows)
    assert all(part.untyped_storage().nbytes() == part.nbytes == 2 * 16 * 4 for part in observer.kept)
