"""The end of a step is seen at the scheduler."""

from __future__ import annotations

import inspect
from copy import deepcopy

import torch
from diffusers import CogVideoXDDIMScheduler, FlowMatchEulerDiscreteScheduler

from llmc.models.generation import shown_after_steps


def test_every_step_is_shown_but_those_of_a_copy() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(2)
    shown: list[torch.Tensor] = []
    with shown_after_steps(scheduler, shown.append):
        copy = deepcopy(scheduler)  # as LTX-2 has one for sound
        found = []
        for timestep in scheduler.timesteps:
            found.append(scheduler.step(torch.ones(3), timestep, torch.zeros(3), return_dict=False)[0])
            sound = copy.step(torch.ones(3), timestep, torch.zeros(3)).prev_sample
            assert torch.equal(sound, found[-1])
    assert len(shown) == 2 and all(torch.equal(one, other) for one, other in zip(shown, found, strict=True))
    assert scheduler.step_index == copy.step_index == 2
    assert "step" not in vars(scheduler)


def test_pipelines_still_see_what_a_step_takes() -> None:
    scheduler = CogVideoXDDIMScheduler()
    wanted = inspect.signature(scheduler.step)
    with shown_after_steps(scheduler, lambda latents: None):
        assert inspect.signature(scheduler.step) == wanted and "eta" in wanted.parameters
