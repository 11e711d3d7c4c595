"""One run of a pipeline of diffusers, as every family makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from itertools import count
from types import MethodType
from typing import Any

import torch

from llmc.models.samples import OnStep, Sampling, Video


def generate_video(pipeline: Any, call: Callable[..., Any], sampling: Sampling, on_step: OnStep | None) -> Video:
    """What `call` gives, (frames, height, width, 3) from 0 to 1, when it passes on what every pipeline takes."""
    latents: list[torch.Tensor] = []
    scheduler, steps = pipeline.scheduler, count(1)

    def after_step(stepped: torch.Tensor) -> None:
        latents[:] = [stepped]
        if on_step is not None:
            # a video of several segments goes through the schedule once for each
            on_step(next(steps) % len(scheduler.timesteps))

    with shown_after_steps(scheduler, after_step):
        frames = call(
            height=sampling.height, width=sampling.width, num_inference_steps=sampling.steps,
            generator=torch.Generator("cpu").manual_seed(sampling.seed), output_type="np",
        )  # fmt: skip
    return Video.of(torch.from_numpy(frames), latents[0])


@contextmanager
def shown_after_steps(scheduler: Any, show: Callable[[torch.Tensor], None]) -> Iterator[None]:
    """Show the latents after each step of this very scheduler: all pipelines take steps, not all call back. The steps
    of a copy, as some have one for sound, are not shown."""

    own, plain = vars(scheduler).get("step"), type(scheduler).step

    @wraps(own or plain)  # pipelines look at its signature
    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        stepped = plain(self, *args, **kwargs) if own is None else own(*args, **kwargs)
        if self is scheduler:
            show(stepped[0])
        return stepped

    scheduler.step = MethodType(step, scheduler)  # of a copy it would be the copy's own
    try:
        yield
    finally:
        del scheduler.step
        if own is not None:
            scheduler.step = own
