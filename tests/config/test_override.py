"""`--set key.key=value`."""

import pytest
import yaml

from llmc.compat.load import load_config
from llmc.errors import ConfigError
from tests.config.conftest import Write


def test_values_have_the_types_of_yaml(good: str, write: Write) -> None:
    config = load_config(
        write(good), ["calib.sample_steps=4", "calib.guidance_scale=1", "save.overwrite=no", "eval.seeds=[1,2]"]
    )
    assert (config.calib.sample_steps, config.calib.guidance_scale, config.save.overwrite) == (4, 1.0, False)
    assert config.eval is not None and config.eval.seeds == (1, 2)


def test_null_takes_a_value_away(good: str, write: Write) -> None:
    assert load_config(write(good), ["quant.video_gen.act=null"]).quant.video_gen.act is None


@pytest.mark.parametrize("section", ["base", "ignored_layers", "save", "eval"])
def test_a_section_that_is_taken_away_is_as_one_left_out(section: str, good: str, write: Write) -> None:
    values = yaml.safe_load(good)
    values.pop(section, None)
    without = load_config(write(yaml.safe_dump(values))).model_dump()
    assert load_config(write(good), [f"{section}=null"]).model_dump() == without
    assert load_config(write(yaml.safe_dump({**values, section: None}))).model_dump() == without


def test_items_of_lists_go_by_number(good: str, write: Write) -> None:
    overrides = ["quant.video_gen.special=null", "quant.video_gen.method=[{name: SmoothQuant}, RTN]"]
    config = load_config(write(good), [*overrides, "quant.video_gen.method.0.alpha=0.25"])
    assert config.recipe()[0].model_dump()["alpha"] == 0.25


def test_sections_that_are_missing_are_made(good: str, write: Write) -> None:
    assert load_config(write(good), ["ignored_layers.block_ids=0"]).policy().ignored_blocks == {0}


def test_an_override_of_one_use_of_an_anchor_leaves_the_others(good: str, write: Write) -> None:
    config = load_config(write(good), ["base.seed=7"])
    assert (config.base.seed, config.calib.seed) == (7, 42)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        (
            "calib.smaple_steps=4",
            ["--set calib.smaple_steps=4: calib.smaple_steps: unknown key", "did you mean sample_steps?"],
        ),
        ("calb.sample_steps=4", ["--set calb.sample_steps=4: calb: unknown key", "did you mean calib?"]),
        ("calib.sample_steps=0", ["--set calib.sample_steps=0: calib.sample_steps: it is 0"]),
        ("calib.sample_steps", ["not of the form key.key=value"]),
        ("=3", ["not of the form"]),
        ("base.seed.deep=1", ["base.seed is 42, not a section"]),
        ("eval.eval_pos.4=pretrain", ["a list with items 0 to 0"]),
        ("eval.eval_pos=[", ["--set eval.eval_pos=["]),
    ],
)
def test_a_wrong_override_is_named_in_place_of_a_line(override: str, words: list[str], good: str, write: Write) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(good), [override])
    for word in words:
        assert word in str(caught.value)
