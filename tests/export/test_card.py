"""The model card as a reader gets it: what a folder or a recipe is called takes no effect in it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from markdown_it import MarkdownIt  # rich needs it, and so do we

from llmc.export.card import inline_code, write_card
from llmc.export.comfyui.exporter import ComfyUI
from llmc.export.part import FinishedPart

HOSTILE = "a|b `c` **d** [e](http:f) <script>g</script> &lt;\n---\n# h\x1b[31m"


@pytest.fixture
def part(tmp_path: Path) -> FinishedPart:
    provenance = {"producer": "llmc", "recipe": HOSTILE, "fingerprint": "0" * 64}
    source = tmp_path / HOSTILE.replace("/", "\\")
    source.mkdir()
    errors = {HOSTILE: {"weight_error": 0.5}}
    return FinishedPart(HOSTILE, torch.nn.Linear(2, 2), {}, {}, source, provenance, {}, errors=errors)


def test_names_that_are_markdown_or_html_stay_text(part: FinishedPart, tmp_path: Path) -> None:
    write_card(tmp_path, [part], "comfyui", {"scheme": HOSTILE}, ComfyUI().usage([part]))
    _, front, body = (tmp_path / "README.md").read_text().split("---\n", 2)
    assert yaml.safe_load(front)["tags"] == ["llmc", "comfyui", HOSTILE]
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    inline = [child for token in tokens for child in token.children or ()]
    assert {token.type for token in tokens if token.type.startswith("html")} == set()
    assert {child.type for child in inline} == {"text", "code_inline", "softbreak"}
    assert [token.tag for token in tokens if token.type == "heading_open"] == ["h1", "h2", "h2"]
    rows = [token for token in tokens if token.type == "tr_open"]
    cells = [token for token in tokens if token.type in ("td_open", "th_open")]
    assert (len(rows), len(cells)) == (4, 12)
    said = HOSTILE.replace("\n", "\\n").replace("\x1b", "\\x1b")
    assert f"recipe: {said}" in "\n".join(token.content for token in tokens_as_text(tokens))
    assert "\x1b" not in body


def tokens_as_text(tokens: list) -> list:
    """The inline tokens with what a reader sees of them."""
    shown = [token.copy() for token in tokens if token.type == "inline"]
    for token in shown:
        token.content = "".join(child.content for child in token.children)
    return shown


@pytest.mark.parametrize("text", ["plain", "a`b", "``", "`a", ""])
def test_code_may_hold_backticks(text: str) -> None:
    (paragraph,) = (token for token in MarkdownIt().parse(f"x {inline_code(text)} y") if token.type == "inline")
    assert [child.content for child in paragraph.children or () if child.type == "code_inline"] == (
        [text] if text else []
    )
