"""The `save` section has a section for each exporter, which is validated straight into it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from llmc.config.save import SaveConfig, exporters
from tests.config.conftest import GOOD

VAULT = '''
from pathlib import Path
from typing import ClassVar, Literal

from llmc.export.base import Exporter, FinishedPart


class Vault(Exporter):
    """A target with a setting that another one has, too, in another sense."""

    name: Literal["vault"] = "vault"
    layout: Literal["rows", "columns"] = "rows"
    subfolder: ClassVar[str] = "vault"
    accepts: ClassVar[frozenset[str]] = frozenset({"scale"})

    def write(self, part: FinishedPart, folder: Path) -> Path:
        return folder
'''


def test_every_exporter_has_a_section_that_asks_for_it_alone() -> None:
    for name, exporter in exporters().items():
        for asked in ({}, True):
            section = SaveConfig.model_validate({"path": "out", name: asked})
            assert [(type(target), folder) for target, folder in section.targets()] == [
                (exporter, Path("out") / exporter.subfolder)
            ]
        for left_out in (None, False):
            assert SaveConfig.model_validate({"path": "out", name: left_out}).targets() == []


def test_settings_reach_their_exporter() -> None:
    section = SaveConfig.model_validate({"path": "out", "lightx2v": {"layout": "blocks"}})
    assert section.targets()[0][0].layout == "blocks"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"lightx2v": {}}, "lightx2v is asked for, but there is no `path`"),
        ({"path": "out", "lightx2v": {"soc": "a5"}}, "soc"),
        ({"path": "out", "lightx2v": {}, "mindie": {}}, "lightx2v and mindie both write to `path` itself"),
    ],
)
def test_a_section_that_says_too_little_or_too_much_is_refused(section: dict[str, object], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        SaveConfig.model_validate(section)


def test_a_fingerprint_takes_in_what_it_always_did() -> None:
    """A run folder, and an export that may be overwritten, are known by it: the flat form, whatever is written."""
    off = {"save_comfyui": False, "comfy_format": "comfy_quant", "codebook": "standard",
           "save_diffusers": False, "save_fake": False,
           "save_lightx2v": False, "native_names": False, "layout": "single", "runtime": None, "encoder_file": "pth",
           "save_mindie": False, "mindie_version": 3, "soc": "a2", "dtype": "bf16", "part_file_size": 0,
           "save_trans": False}  # fmt: skip
    assert SaveConfig().fingerprinted() == off
    given = {"path": "out", "overwrite": True, "lightx2v": {"layout": "blocks"}, "comfyui": {"format": "scaled_fp8"}}
    changed = {"save_lightx2v": True, "layout": "blocks", "save_comfyui": True, "comfy_format": "scaled_fp8"}
    assert SaveConfig.model_validate(given).fingerprinted() == off | changed


def check(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "llmc", "check", str(GOOD), "--plugin", "vault"]
    sets = [word for option in options for word in ("--set", option)]
    return subprocess.run([*command, *sets], cwd=folder, capture_output=True, text=True, env=os.environ)


def test_two_exporters_may_share_the_name_of_a_setting(tmp_path: Path) -> None:
    (tmp_path / "vault.py").write_text(VAULT)
    both = check(tmp_path, "save.path=out", "save.lightx2v.layout=blocks", "save.vault.layout=columns")
    assert both.returncode == 0, both.stderr
    assert "lightx2v to out\n" in both.stdout and "vault to out/vault\n" in both.stdout
    wrong = check(tmp_path, "save.path=out", "save.vault.layout=blocks")
    assert wrong.returncode == 2 and "save.vault.layout: it is blocks; " in wrong.stderr
    flat = check(tmp_path, "save.path=out", "save.save_vault=True", "save.layout=blocks")
    assert flat.returncode == 2 and "write `lightx2v: {layout: ...}` or `vault: {layout: ...}`" in flat.stderr
