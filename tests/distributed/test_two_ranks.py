"""Two gloo ranks give what one process gives."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import load_file

from llmc.eval.results import Results, read_results
from tests.end_to_end.small_run import kill_once_a_block_is_finished, small_config
from tests.processes import run


def run_llmc(config: Path, folder: Path, ranks: int) -> Results:
    places = [f"base.run_dir={folder / 'run'}", f"save.save_path={folder / 'export'}"]
    ended = run(["run", "--config", str(config), "--set", places[0], "--set", places[1]], ranks)
    assert [rank.code for rank in ended] == [0] * ranks, ended
    return read_results(folder / "run" / "results.json")


@pytest.mark.slow
def test_two_ranks_share_the_samples_and_agree_with_one(tmp_path: Path) -> None:
    results, tensors = [], []
    config = small_config(tmp_path, samples=3)
    for ranks in (1, 2):
        results.append(run_llmc(config, tmp_path / str(ranks), ranks))
        tensors.append(load_file(Path(str(results[-1].checkpoint)) / "diffusion_pytorch_model.safetensors"))
    assert tensors[0].keys() == tensors[1].keys()
    different = [name for name in tensors[0] if not tensors[0][name].equal(tensors[1][name])]
    # the largest magnitudes are the same whoever saw them, so that fixed-alpha smoothing gives the same bytes
    assert different == []
    for one, two in zip(*(found.metrics["fake_quant"].values() for found in results), strict=True):
        assert one == pytest.approx(two, rel=1e-6)


def test_two_ranks_go_on_where_one_was_killed(tmp_path: Path) -> None:
    tensors = []
    for ranks in (1, 2):
        folder = tmp_path / str(ranks)
        folder.mkdir()
        config = small_config(folder, samples=2, eval=None)
        if ranks == 2:
            kill_once_a_block_is_finished(config, folder / "run")
        results = run_llmc(config, folder, ranks)
        tensors.append(load_file(Path(str(results.checkpoint)) / "diffusion_pytorch_model.safetensors"))
    assert "blocks of transformer were finished before" in (tmp_path / "2" / "run" / "run.log").read_text()
    assert all(tensors[0][name].equal(tensors[1][name]) for name in tensors[0])
