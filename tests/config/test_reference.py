"""docs/config.md is generated."""

from pathlib import Path

from llmc.config.json_schema import file_schema
from llmc.config.reference import plugin_kinds, reference


def test_the_reference_page_is_current() -> None:
    page = Path(__file__).parents[2] / "docs" / "config.md"
    assert page.read_text(encoding="utf-8") == reference(), "run: python -m llmc.config.reference > docs/config.md"


def test_every_plug_in_says_what_it_is() -> None:
    for plugins in plugin_kinds().values():
        assert plugins
        assert all(plugin.summary() for plugin in plugins.values())


def test_the_schema_for_editors_takes_a_file_that_is_built_on_others() -> None:
    schema = file_schema()
    base = schema["properties"]["base"]
    assert {"type": "string"} in base["anyOf"] and {"$ref": "#/$defs/BaseConfig"} in base["anyOf"]
    assert "files" in schema["$defs"]["BaseConfig"]["properties"]
    assert [name for name, section in schema["$defs"].items() if "required" in section] == []
    assert "required" not in schema and schema["$defs"]["LightX2V"]["additionalProperties"] is False
