"""The commands of docs/converter.md, as they stand there, on tiny models."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llmc.convert.checkpoint import open_checkpoint
from llmc.convert.command import convert, parser
from tests.convert.families import FAMILIES, state

PAGE = Path(__file__).parents[2] / "docs" / "converter.md"


def test_the_commands_of_the_page_do_what_they_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, family in (("transformer", "i2v"), ("text_encoder", "umt5")):
        (tmp_path / "pipeline" / folder).mkdir(parents=True)
        save_file(state(family), tmp_path / "pipeline" / folder / "model.safetensors")
    (tmp_path / "pipeline" / "model_index.json").write_text("{}")
    (tmp_path / "save_for_lightx2v").symlink_to(tmp_path / "pipeline" / "transformer")
    for name in ("a", "b"):
        save_file({"blocks.0.attn1.to_q.diff": torch.ones(24, 24)}, tmp_path / f"{name}.safetensors")
    commands = re.findall(r"^python scripts/converter\.py (.*)$", PAGE.read_text("utf-8"), re.MULTILINE)
    for command in commands:
        convert(parser("").parse_args(shlex.split(command.replace("/path/to/", ""))))
    written = {path.name for path in tmp_path.iterdir() if path.is_dir()}
    assert written == {"pipeline", "save_for_lightx2v", "native", "diffusers", "t5", "merged"}
    before, after, merged = (
        dict(open_checkpoint(tmp_path / name).read()) for name in ("pipeline", "diffusers", "merged")
    )
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    torch.testing.assert_close(merged["blocks.0.attn1.to_q.weight"], before["blocks.0.attn1.to_q.weight"] + 1.5)


def test_the_page_names_every_model_type_and_option() -> None:
    text = PAGE.read_text("utf-8")
    assert all(f"`{kind}`" in text for kind, _ in FAMILIES.values())
    options = set(re.findall(r"\[(--?\w[\w-]*)", parser("").format_usage()))
    assert {"-d", "--lora_strength"} < options
    assert [option for option in options - {"-h"} if option not in text] == []
