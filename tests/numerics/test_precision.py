"""Products that must keep all bits of float32, in a process that has allowed fewer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llmc.numerics.gptq import Factor, gptq, least_squares
from llmc.numerics.precision import exact_products
from llmc.numerics.quantize import scales, sliced
from llmc.numerics.spec import TensorSpec

PRODUCTS = {"mm", "addmm", "addmm_", "addmv_", "linalg_cholesky_ex", "linalg_solve_triangular"}


class Precisions(TorchDispatchMode):
    """How CUDA would take each product."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in PRODUCTS:
            self.seen.append(torch.backends.cuda.matmul.fp32_precision)
        return func(*args, **(kwargs or {}))


@pytest.fixture
def short_factors() -> Iterator[None]:
    """What a script sets to be faster."""
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    yield
    torch.backends.cuda.matmul.fp32_precision = before


@torch.no_grad()
def test_gptq_takes_every_product_in_float32(short_factors: None) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(128, 48), torch.randn(16, 48)
    spec = TensorSpec(format="int4", granularity="per_channel")
    with Precisions() as precisions:
        factor = Factor.of(x.T.mul(1.0) @ x, 0.01, act_order=True)
        least_squares(weight, torch.eye(48), factor)
        gptq([weight], factor, spec, [scales(sliced(weight, spec), spec)])
    first, *others = precisions.seen  # the Gram matrix is the test's own
    assert first == "tf32" and len(others) > 48 and set(others) == {"ieee"}


def test_only_values_that_fit_are_multiplied_short(short_factors: None) -> None:
    backends = torch.backends
    with exact_products(torch.bfloat16):
        assert (backends.cuda.matmul.fp32_precision, backends.mkldnn.matmul.fp32_precision) == ("tf32", "bf16")
        with exact_products(torch.float16):
            assert backends.cuda.matmul.fp32_precision == backends.mkldnn.matmul.fp32_precision == "ieee"
    assert backends.cuda.matmul.fp32_precision == "tf32"
