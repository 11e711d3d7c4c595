"""What ships is found wherever llmc is installed, far from the repository."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmc.shipped import shipped

ROOT = Path(__file__).parents[1]
BUILT_FROM = ("llmc", "configs", "assets", "pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE")
FEW = ["calib.n_samples=1", "calib.sample_steps=2", "calib.max_rows=64", "eval.n_samples=1", "eval.metrics=[psnr]"]


def test_in_the_repository_it_is_the_repositorys() -> None:
    assert shipped() == ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the wheel was installed into; it is built from a copy, so that nothing is left behind."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    source.mkdir()
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    wheel = ["wheel", ".", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    subprocess.run([*pip, *wheel], cwd=source, check=True)
    (built,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(folder / "site"), str(built)], check=True)
    shutil.rmtree(source)
    return folder / "site"


@pytest.mark.slow
def test_an_installed_wheel_runs_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    def llmc(*arguments: str) -> str:
        environment = os.environ | {"PYTHONPATH": str(installed)}
        done = subprocess.run(
            [sys.executable, "-m", "llmc", *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    listed = llmc("list")
    assert str(installed / "llmc" / "_data" / "configs") in listed and "int8_smoothquant.yaml" in listed
    assert "lightx2v to runs/" in llmc("check", "configs/quantization/video_gen/wan_i2v_tiny/smoothquant_w_a.yaml")
    sets = [word for text in [*FEW, "base.run_dir=run"] for word in ("--set", text)]
    summary = json.loads(llmc("run", "--json", *sets).splitlines()[-1])
    assert list((tmp_path / summary["checkpoint"]).rglob("*.safetensors"))
    assert "passed" in llmc("verify", summary["checkpoint"], "--against", "run")
    given = ["--model_path", "assets/tiny_wan_i2v", "--model_type", "Wan2_1", "--quant_type", "w8a8"]
    llmc("quant", *given, "--save_path", "mindie", "--set", "base.run_dir=quant")
    assert "passed" in llmc("verify", "mindie", "--against", "quant")
    assert {path.name for path in tmp_path.iterdir()} == {"run", "runs", "quant", "mindie"}
