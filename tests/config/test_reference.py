"""docs/config.md is generated."""

from pathlib import Path

from llmc.config.reference import plugin_kinds, reference


def test_the_reference_page_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "config.md"
    assert page.read_text(encoding="utf-8") == reference(), "run: python -m llmc.config.reference > docs/config.md"


def test_every_plug_in_says_what_it_is() -> None:
    for plugins in plugin_kinds().values():
        assert plugins
        assert all(plugin.summary() for plugin in plugins.values())
