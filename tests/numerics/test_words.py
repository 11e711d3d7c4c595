"""What a YAML calls each format."""

import pytest

from llmc.config.quant import ActConfig, WeightConfig, bits, format_name, formats


@pytest.mark.parametrize(
    "bit, name",
    [
        *((width, f"int{width}") for width in (8, 6, 4, 3, 2)),
        *((word, name) for name in formats() for word in (name, name.rpartition("_")[2])),
    ],
)
def test_a_bit_names_its_format(bit: int | str, name: str) -> None:
    assert format_name(bit) == name
    for side in (WeightConfig, ActConfig):
        assert side.model_validate({"bit": bit}).spec().format.name == name


def test_every_short_word_is_listed_once() -> None:
    assert set(bits()) >= {"8", "6", "4", "3", "2", "e4m3", "e5m2", "e3m2", "e2m1", "mxfp8", "mxfp6", "mxfp4", "nvfp4"}
    assert len(set(bits())) == len(formats())


@pytest.mark.parametrize("bit, size", [("mxfp8", 32), ("mxfp6", 32), ("mxfp4", 32), ("nvfp4", 16)])
def test_a_format_with_groups_of_its_own_needs_no_other_word(bit: str, size: int) -> None:
    for words in ({}, {"granularity": "per_group"}, {"group_size": size}, {"quant_type": "float-quant"}):
        for side in (WeightConfig, ActConfig):
            spec = side.model_validate({"bit": bit, **words}).spec()
            assert (spec.granularity, spec.group_size) == ("per_group", size)


@pytest.mark.parametrize(
    "words, why",
    [
        ({"granularity": "per_tensor"}, "found per_tensor: leave granularity and group_size out"),
        ({"group_size": 128}, "found per_group 128"),
        ({"symmetric": False}, "its grid is symmetric"),
        ({"static": True}, "write `static: False`"),
        ({"granularity": "per_tensor", "static": True}, "found per_tensor"),
    ],
)
def test_what_does_not_fit_such_a_format_is_refused(words: dict[str, object], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        ActConfig.model_validate({"bit": "mxfp4", **words})
