"""What each rank of a run does, for `tests.processes`: a run whose folder also gets what every rank says of it."""

from __future__ import annotations

import json
from pathlib import Path

from llmc import distributed


def main(words: list[str]) -> None:
    """The words are a folder for the run and its export, a configuration, and overrides of it."""
    from llmc.checks.configuration import check_config
    from llmc.compat.load import load_config
    from llmc.run import run

    folder, (config, *overrides), rank = Path(words[0]), words[1:], distributed.rank()
    own = [f"base.run_dir={folder / 'run'}", f"save.save_path={folder / 'export'}"]
    loaded = load_config(Path(config), [*own, *overrides])
    check_config(loaded)
    results = run(loaded)
    said = results.model_dump(mode="json", include={"layers", "attentions", "rejected", "coverage"})
    (folder / f"rank{rank}.json").write_text(json.dumps(said))
