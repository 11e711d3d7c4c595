"""The `save` section is made of the exporters: their switches, and their settings beside them."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from llmc.config.save import SaveConfig, exporters


def test_every_exporter_has_a_switch_that_turns_it_on_alone() -> None:
    for exporter in exporters():
        section = SaveConfig.model_validate({"save_path": "out", exporter.switch: True})
        assert [(type(target), folder) for target, folder in section.targets()] == [
            (exporter, Path("out") / exporter.subfolder)
        ]


def test_settings_reach_their_exporter() -> None:
    section = SaveConfig.model_validate({"save_path": "out", "save_lightx2v": True, "layout": "blocks"})
    assert section.targets()[0][0].layout == "blocks"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"save_lightx2v": True}, "there is no save_path"),
        ({"save_path": "out", "layout": "blocks"}, "add `save_lightx2v: True`, or leave layout out"),
        (
            {"save_path": "out", "save_lightx2v": True, "save_mindie": True},
            "save_lightx2v and save_mindie both write to save_path itself",
        ),
    ],
)
def test_a_section_that_says_too_little_is_refused(section: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SaveConfig.model_validate(section)
