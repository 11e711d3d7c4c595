"""One run of a pipeline of diffusers, as every family makes it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from llmc.models.base import OnStep, Sampling, Video


def generate_video(call: Callable[..., Any], sampling: Sampling, on_step: OnStep | None) -> Video:
    """What `call` gives, (frames, height, width, 3) from 0 to 1, when it passes on what every pipeline takes."""
    latents: list[torch.Tensor] = []

    def after_step(_: Any, index: int, timestep: Any, values: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        latents[:] = [values["latents"]]
        if on_step is not None:
            on_step(index + 1)
        return {}

    frames = call(
        height=sampling.height, width=sampling.width, num_inference_steps=sampling.steps,
        generator=torch.Generator("cpu").manual_seed(sampling.seed), output_type="np",
        callback_on_step_end=after_step, callback_on_step_end_tensor_inputs=["latents"],
    )  # fmt: skip
    return Video.of(torch.from_numpy(frames), latents[0])
