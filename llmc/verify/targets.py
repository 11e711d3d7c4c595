"""What `llmc verify` knows, one target a folder."""

import ast
from pathlib import Path


def summaries() -> dict[str, str]:
    """Each target's first line, read without importing it: its rules name types of torch."""
    files = sorted(Path(__file__).parent.glob("*/target.py"))
    texts = {file.parent.name: ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or "" for file in files}
    return {name: text.partition("\n")[0] for name, text in texts.items()}
