"""How float32 matrices are multiplied: a script may have allowed shorter factors, and some sums need all bits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def exact_products(dtype: torch.dtype = torch.float32) -> Iterator[None]:
    """Multiply values of a type without loss, whatever a script has set. Units for short factors, where a device has
    them, may take float32 products of bf16 values: bf16 and tf32 hold every such factor exactly, and sums stay
    float32."""
    backends: Any = torch.backends
    on_cpu, on_cuda = backends.mkldnn.matmul, backends.cuda.matmul
    before = on_cpu.fp32_precision, on_cuda.fp32_precision
    wanted = ("bf16", "tf32") if dtype == torch.bfloat16 else ("ieee", "ieee")
    try:
        on_cpu.fp32_precision, on_cuda.fp32_precision = wanted
        yield
    finally:
        on_cpu.fp32_precision, on_cuda.fp32_precision = before
