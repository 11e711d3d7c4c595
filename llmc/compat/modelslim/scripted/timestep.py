"""The step of a denoising loop of your own, by the name that such loops know from msModelSlim."""

from llmc.layers.steps import start_step


class TimestepManager:
    """A loop calls it at the start of each step."""

    @staticmethod
    def set_timestep_idx(index: int) -> None:
        """Say that this step starts, counted from 0."""
        start_step(index)
