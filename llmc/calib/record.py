"""Run the pipeline once in float and note every call of its networks: sample, step, timestep, branch, tensors."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from llmc.calib.coverage import Coverage
from llmc.calib.store import Call, CallStore
from llmc.errors import CalibrationError
from llmc.layers.steps import TimestepManager, at_step, running_step
from llmc.models.base import ModelAdapter, Sample, Sampling, Video
from llmc.models.parts import Part


@dataclass
class Clock:
    """Where the pipeline is: set by the recorder, read when a network is called."""

    sample: int = 0
    branches: tuple[str, ...] = ("cond",)  # the calls of one step, in order
    calls_in_step: Counter[str] = field(default_factory=Counter)  # by part: in one step each counts its own branches

    def tick(self, step: int) -> None:
        TimestepManager.set_timestep_idx(step)
        self.calls_in_step.clear()


@torch.no_grad()
def record_calls(
    adapter: ModelAdapter,
    pipeline: Any,
    parts: Sequence[Part],
    samples: Sequence[tuple[int, Sample, Sampling]],
    stores: dict[str, CallStore],
    keep_outputs: bool = False,
    on_video: Callable[[], None] = lambda: None,
    coverage: Coverage | None = None,
    until: Callable[[Sampling], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> list[Video]:
    """Generate a video of each sample; calls of the parts that have a store go into it, and `coverage` counts all.
    `until` may leave a run before its end: then there is no video of it."""
    clock = Clock()
    videos = []
    with at_step(0), ExitStack() as hooks:
        for part in parts:
            store = stores.get(part.name)
            hooks.enter_context(_noting(part, clock, store, keep_outputs, coverage))
        for index, sample, sampling in samples:
            clock.sample, clock.branches = index, adapter.branches_of(sampling)
            clock.tick(0)
            with until(sampling):
                videos.append(adapter.generate(pipeline, sample, sampling, clock.tick))
            on_video()
    for name, store in stores.items():
        if samples and len(store) == 0:
            raise CalibrationError(
                f"the pipeline ran, but never called {name}: nothing was recorded; check the adapter's parts"
            )
    return videos


@contextmanager
def _noting(
    part: Part,
    clock: Clock,
    store: CallStore | None,
    keep_output: bool,
    coverage: Coverage | None,
) -> Iterator[None]:
    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any = None) -> None:
        branch = clock.branches[clock.calls_in_step[part.name] % len(clock.branches)]
        clock.calls_in_step[part.name] += 1
        if coverage is not None:
            coverage.note(part.name, clock.sample, running_step())
        if store is not None:
            timestep = _timestep(kwargs)
            store.add(Call(clock.sample, running_step(), timestep, branch, *part.kept(args, kwargs, output)))

    module = part.module  # without its output a call is noted as it begins: it may be left before its end
    noting = module.register_forward_hook if keep_output else module.register_forward_pre_hook
    hook = noting(note, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def _timestep(kwargs: dict[str, Any]) -> float:
    """The noisiest of the call's timesteps: a first frame that is given has the timestep 0 on its own tokens."""
    timestep = kwargs.get("timestep")
    return float(timestep.max()) if isinstance(timestep, Tensor) else float("nan")
