"""A plug-in (`--plugin`) that counts what a run computes, and sends it a signal at a given count."""

from __future__ import annotations

import os
from typing import Any

from torch import nn
from torch.nn.modules.module import register_module_forward_pre_hook

from llmc.layers.linear import QuantLinear

FILE, LAST, SIGNAL = "LLMC_TEST_COUNT_FILE", "LLMC_TEST_COUNT_LAST", "LLMC_TEST_COUNT_SIGNAL"


class Count:
    """Of forwards of linears under quantization: those of whole networks, and of single blocks that are replayed."""

    def __init__(self) -> None:
        self.value, self.last = 0, int(os.environ[LAST])
        self.file = os.open(os.environ[FILE], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def note(self, module: nn.Module, arguments: Any) -> None:
        if not isinstance(module, QuantLinear):
            return
        if self.value == self.last:
            os.kill(os.getpid(), int(os.environ[SIGNAL]))
        self.value += 1
        os.pwrite(self.file, str(self.value).encode(), 0)


if FILE in os.environ:
    register_module_forward_pre_hook(Count().note)
