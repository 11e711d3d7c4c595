"""Rules of every target."""

from __future__ import annotations

from pathlib import Path

from llmc.plugin import discover
from llmc.verify import plain_rules
from llmc.verify.base import Target
from llmc.verify.comfyui import target as comfyui
from llmc.verify.diffusers import target as diffusers
from llmc.verify.lightx2v import target as lightx2v
from llmc.verify.mindie import target as mindie
from llmc.verify.targets import summaries

PAGE = Path(__file__).parents[2] / "docs/verify.md"


def test_the_list_names_every_target() -> None:
    found = summaries()
    assert found.keys() == discover("llmc.verify", Target).keys() and all(found.values())


def test_the_page_names_every_rule() -> None:
    rules = (
        lightx2v.EXPORT_RULES, lightx2v.FILE_RULES, lightx2v.NETWORK_RULES,
        plain_rules.NETWORK_RULES, plain_rules.VALUE_RULES, comfyui.OLD_RULES,
        comfyui.OWN_RULES, comfyui.LAST_RULES, diffusers.OWN_RULES,
        diffusers.LAST_RULES, mindie.FILE_RULES, mindie.DESCRIPTION_RULES, mindie.NETWORK_RULES,
    )  # fmt: skip
    first = [line.split("|")[1] for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    named = {name.strip() for cell in first for name in cell.split(",")}
    assert {
        "sizes",
        "pipeline",
        "components",
        *(name for table in rules for rule in table for name in rule.split(", ")),
    } <= named
