"""Plug-ins that live outside of the repository."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
METHOD = '''
from __future__ import annotations

from typing import ClassVar, Literal

from llmc.algorithms.base import Algorithm
from llmc.layers.transforms import Scale


class EvenOut(Algorithm):
    """Scale each input channel by its own largest magnitude, where that pays."""

    name: Literal["EvenOut"] = "EvenOut"
    strength: float = 0.5
    leaves: ClassVar[frozenset[str]] = frozenset({"scale"})

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"absmax", "rows"})

    def apply(self, block) -> None:
        for group in block.groups:
            if group.may_scale:
                scale = Scale(group.absmax().clamp(min=1e-5).pow(-self.strength).bfloat16().float())
                block.transform_if_better(group, [scale], self.name)
'''


def llmc(folder: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llmc", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ)


def test_a_method_in_a_package_of_ones_own_is_listed_and_validated(tmp_path: Path) -> None:
    package = tmp_path / "my_methods"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "even_out.py").write_text(METHOD)
    listed = llmc(tmp_path, "list", "--plugin", "my_methods")
    assert "EvenOut" in listed.stdout, listed.stderr
    good = ROOT / "configs/quantization/video_gen/wan_i2v_tiny/smoothquant_w_a.yaml"
    ours = ["--set", "quant.video_gen.method=EvenOut", "--set", "quant.video_gen.special={strength: 0.3}"]
    assert "EvenOut (strength 0.3)" in llmc(tmp_path, "check", good, *ours, "--plugin", "my_methods").stdout
    spoiled = llmc(
        tmp_path, "check", good, *ours, "--plugin", "my_methods", "--set", "quant.video_gen.special.strenth=1"
    )
    assert spoiled.returncode == 2 and "strength" in spoiled.stderr


def test_a_plugin_that_is_not_there_is_named(tmp_path: Path) -> None:
    done = llmc(tmp_path, "list", "--plugin", "nowhere")
    assert done.returncode == 2 and "--plugin nowhere: No module named 'nowhere'" in done.stderr
