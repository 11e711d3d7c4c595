import json
import subprocess
import sys
from pathlib import Path

import pytest

from llmc.errors import ExportError
from llmc.eval.results import Results, SampleResult, write_results
from llmc.eval.vbench import file_name, lay_out

ROOT = Path(__file__).parents[2]
PROMPTS = ["a dog runs", "a dog runs", "一只狗在奔跑/慢动作", "a long tale " * 40]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run of four samples at two positions."""
    folder, samples = tmp_path / "run", []
    for index, prompt in enumerate(PROMPTS):
        videos = {}
        for position in ("float", "fake_quant"):
            path = folder / "videos" / position / f"{index}_seed42.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{position} {index}".encode())
            videos[position] = str(path.relative_to(folder))
        samples.append(SampleResult(name=str(index), prompt=prompt, seed=42, videos=videos))
    results = Results(run=str(folder), name="run", created="", device="cpu", recipe="RTN", samples=samples)
    write_results(folder / "results.json", results)
    return folder


def as_vbench_reads_them(folder: Path) -> dict[str, str]:
    """Video -> prompt, by the rules of its custom_input mode: each video of the folder must be in the file."""
    prompts = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    videos = [path for path in folder.iterdir() if path.suffix.lower() in (".mp4", ".gif")]
    assert len(prompts) >= len(videos)
    return {video.read_text(): prompts[video.name] for video in videos}


def test_each_position_has_its_videos_with_their_prompts(run, tmp_path):
    assert lay_out(run, tmp_path / "vbench") == {"float": 4, "fake_quant": 4}
    for position in ("float", "fake_quant"):
        found = as_vbench_reads_them(tmp_path / "vbench" / position)
        assert found == {f"{position} {index}": prompt for index, prompt in enumerate(PROMPTS)}


def test_videos_of_one_prompt_are_numbered_as_its_standard_mode_looks_for_them(run, tmp_path):
    lay_out(run, tmp_path / "vbench")
    names = {path.name for path in (tmp_path / "vbench" / "float").glob("a dog*")}
    assert names == {"a dog runs-0.mp4", "a dog runs-1.mp4"}


def test_laid_out_twice_it_is_as_laid_out_once(run, tmp_path):
    lay_out(run, tmp_path / "vbench")
    before = sorted(path.name for path in (tmp_path / "vbench" / "float").iterdir())
    lay_out(run, tmp_path / "vbench")
    assert sorted(path.name for path in (tmp_path / "vbench" / "float").iterdir()) == before


@pytest.mark.parametrize("prompt", ["../../etc/passwd", "a\nb\x00c", "", "...", "字" * 300, "a\\b"], ids=repr)
def test_a_prompt_becomes_a_name_that_every_file_system_takes(prompt, tmp_path):
    name = f"{file_name(prompt)}-0.mp4"
    (tmp_path / name).write_text("")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_run_without_videos_is_refused(tmp_path):
    results = Results(run="r", name="r", created="", device="cpu", recipe="RTN")
    write_results(tmp_path / "results.json", results)
    with pytest.raises(ExportError, match="no videos"):
        lay_out(tmp_path, tmp_path / "vbench")


def test_a_video_that_is_gone_is_told(run, tmp_path):
    (run / "videos" / "float" / "2_seed42.mp4").unlink()
    with pytest.raises(ExportError, match="2_seed42"):
        lay_out(run, tmp_path / "vbench")


def test_the_script_says_what_it_laid_out(run, tmp_path):
    command = [sys.executable, ROOT / "scripts" / "vbench.py", run, "--to", tmp_path / "out"]
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 0 and "fake_quant: 4 videos" in done.stdout
