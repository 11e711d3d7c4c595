"""What speaks against a run that can be run: too few samples or calls, drawings for pictures, figures that will be
missing. It is told before hours are spent, and stands in the report."""

from __future__ import annotations

from pathlib import Path

from llmc.calib.held_out import keeps_apart
from llmc.config.samples import CalibConfig
from llmc.config.schema import Config

ENOUGH = 9  # samples: with fewer, errors on others were seen to be 2.5 to 11 times those on the samples used
# pixels of a video; models of use make larger ones, and the embedded one smaller ones
OF_USE = 256 * 256
EVEN = 0.95  # share of neighbours of a drawing that are the same; of a photograph, a painting or a rendering far fewer


def worries(config: Config) -> list[str]:
    """Everything that is to be said, a sentence each."""
    found = [scarcity(config)]
    if config.calib is not None and config.observes():
        found += [too_few_calls(config.calib), toys(config)]
    found += [metric.obstacle() for metric in config.metrics()]
    return [sentence for sentence in found if sentence]


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


def too_few_calls(calib: CalibConfig) -> str | None:
    """What to say of a budget of calls that leaves steps of the schedule unseen."""
    steps = len(calib.denoising_step_list or ()) or calib.sample_steps
    if not isinstance(calib.max_calls, int) or calib.max_calls >= steps:
        return None
    return (
        f"calib.max_calls is {calib.max_calls}, and the schedule has {steps} steps: of some the recipe would see "
        f"nothing; write {steps} or more, or leave it out"
    )


def toys(config: Config) -> str | None:
    """What to say of even drawings as first frames of a model that makes videos of use."""
    assert config.calib is not None
    if config.calib.target_height * config.calib.target_width <= OF_USE:
        return None
    samples = config.calib_samples(config.model.adapter())
    pictures = list(dict.fromkeys(sample.image for sample in samples if sample.image is not None))
    drawn = [picture for picture in pictures if is_even(picture)]
    if 2 * len(drawn) <= len(pictures) or not drawn:
        return None
    return (
        f"{len(drawn)} of {len(pictures)} calibration pictures are even drawings, such as {drawn[0].name}: what the "
        "model makes of them is not what it makes of scenes; calibrate on pictures of the kind that it will be given, "
        "or on those in assets/scenes/calib"
    )


def is_even(picture: Path) -> bool:
    """Whether nearly all of a picture is of one colour with what lies beside it."""
    from PIL import Image, ImageChops

    with Image.open(picture) as opened:
        grey = opened.convert("L")
    width, height = grey.size
    beside = ImageChops.difference(grey.crop((1, 0, width, height)), grey.crop((0, 0, width - 1, height)))
    same = beside.histogram()[:2]  # a level of difference is a JPEG's rounding
    return sum(same) > EVEN * max(1, (width - 1) * height)
