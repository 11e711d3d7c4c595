"""The JSON schema of a configuration file, for editors."""

from __future__ import annotations

from typing import Any

from llmc.config.bases import KEYS
from llmc.config.schema import Config


def file_schema() -> dict[str, Any]:
    """What one file may say. It names the files that it is built on, and leaves to them what it does not say itself,
    so that no key is required."""
    schema = Config.model_json_schema()
    for section in (schema, *schema["$defs"].values()):
        section.pop("required", None)
    files = [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]
    settings = {"$ref": schema["properties"][KEYS[0]].pop("$ref")}
    schema["properties"][KEYS[0]]["anyOf"] = [settings, *files]
    schema["$defs"]["BaseConfig"]["properties"][KEYS[1]] = {"anyOf": files}
    return schema
