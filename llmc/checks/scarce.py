"""Whether a calibration has enough samples for methods that solve for what they see, told before hours are spent."""

from __future__ import annotations

from llmc.calib.held_out import keeps_apart
from llmc.config.schema import Config

ENOUGH = 9  # samples: with fewer, errors on others were seen to be 2.5 to 11 times those on the samples used


def scarcity(config: Config) -> str | None:
    """What to say of a calibration with few samples; None if they suffice, or no method solves for them."""
    solvers: set[str] = set()
    for section in config.quant.sections():
        solvers |= {method.name for method in config.recipe(section) if keeps_apart(method.needs)}
    count = len(config.calib_samples(config.model.adapter())) if solvers else ENOUGH
    if count >= ENOUGH:
        return None
    said = f"{count} calibration samples" if count > 1 else "1 calibration sample"
    return (
        f"{' and '.join(sorted(solvers))} would see {said}, and fit it better than others: layers that this does not "
        f"help are rounded to nearest; put at least {ENOUGH} samples into calib.path, each can have few steps "
        "(calib.sample_steps)"
    )
