"""A flat `save`, LLMC's and ours of before, means the same as sections do; so do its keys on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmc.compat.flat_save import flat_settings
from llmc.compat.load import load_config, load_document
from llmc.config.save import exporters, switch_of
from llmc.errors import ConfigError

GOOD = Path(__file__).parents[1] / "config" / "good.yaml"
Write = Callable[[dict[str, Any]], Path]
FLAT = {  # every setting that a flat `save` had, with a value that is not its default
    "lightx2v": {"native_names": True, "layout": "blocks", "runtime": "int8-vllm", "encoder_file": "safetensors"},
    "mindie": {"mindie_version": "2026-07", "soc": "a5", "dtype": "fp16", "part_file_size": 0},
    "comfyui": {"comfy_format": "scaled_fp8", "codebook": "own"},
    "diffusers": {},
    "fake_quant": {},
    "transformed": {},
}


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A good configuration with this `save`, one key a line."""

    def written(save: dict[str, Any]) -> Path:
        values = yaml.safe_load(GOOD.read_text()) | {"save": save}
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(values, sort_keys=False))
        return path

    return written


def save_of(path: Path, *overrides: str) -> dict[str, Any]:
    return load_document(path, overrides).values["save"]


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


@pytest.mark.parametrize("target", FLAT)
def test_a_flat_section_is_the_same_run_as_one_by_target(write: Write, target: str) -> None:
    exporter = exporters()[target]
    own = {name: setting for name, owners in flat_settings().items() for setting in owners.values() if target in owners}
    assert set(FLAT[target]) == set(own)
    settings = {own[key]: value for key, value in FLAT[target].items()}
    flat = load_config(write({switch_of(exporter): True, "save_path": "out", "overwrite": True, **FLAT[target]}))
    sections = load_config(write({"path": "out", "overwrite": True, target: settings}))
    assert flat.save == sections.save and flat.fingerprint() == sections.fingerprint()
    assert flat.save.targets() == [(exporter(**settings), Path("out") / exporter.subfolder)]


def test_what_is_switched_off_is_not_written(write: Write) -> None:
    off = {"save_lightx2v": False, "save_fake": True, "save_path": "out"}
    assert save_of(write(off)) == {"lightx2v": None, "fake_quant": {}, "path": "out"}
    assert [exporter.name for exporter, _ in load_config(write(off)).save.targets()] == ["fake_quant"]


@pytest.mark.parametrize(
    ("overrides", "section"),
    [
        (["save.lightx2v.native_names=True"], {"native_names": True}),
        (["save.native_names=True"], {"native_names": True}),
        (["save.native_names=True", "save.native_names=False"], {"native_names": False}),
        (["save.save_lightx2v=True"], {"layout": "blocks"}),
        (["save.save_lightx2v=False"], None),
        (["save.lightx2v=null"], None),
        (["save.lightx2v=False"], None),
        (["save.layout=single"], {"layout": "single"}),
        (["save.lightx2v.layout=single"], {"layout": "single"}),
    ],
    ids=str,
)
@pytest.mark.parametrize("form", ["flat", "by target"])
def test_options_in_either_form_replace_what_a_file_says_in_either(
    write: Write, form: str, overrides: list[str], section: dict[str, Any] | None
) -> None:
    flat = {"save_lightx2v": True, "layout": "blocks", "save_path": "out"}
    path = write(flat if form == "flat" else {"path": "out", "lightx2v": {"layout": "blocks"}})
    expected = None if section is None else {"layout": "blocks", **section}
    for where in ("save.path=elsewhere", "save.save_path=elsewhere"):
        assert save_of(path, *overrides, where) == {"path": "elsewhere", "lightx2v": expected}


def test_an_option_can_ask_for_another_target_and_give_its_settings_before(write: Write) -> None:
    path = write({"path": "out", "fake_quant": {}})
    assert save_of(path, "save.soc=a5", "save.save_mindie=True")["mindie"] == {"soc": "a5"}
    assert save_of(path, "save={save_mindie: True, soc: a5, save_path: x}") == {"path": "x", "mindie": {"soc": "a5"}}


def test_errors_speak_of_what_the_file_says(write: Write) -> None:
    path = write({"save_lightx2v": True, "save_path": "out", "layout": "bricks", "save_fake": "yes"})
    line = path.read_text().splitlines().index("  layout: bricks") + 1
    assert f"config.yaml:{line + 1}: save.save_fake: it is 'yes'; True or False is needed" in refused(path)
    without = refused(path, "save.save_fake=True")
    assert f"config.yaml:{line}: save.layout: it is bricks; " in without and "allowed: single, blocks" in without
    assert "--set save.lightx2v.layout=x: save.lightx2v.layout: it is x" in refused(
        path, "save.save_fake=True", "save.lightx2v.layout=x"
    )
    nowhere = refused(write({"save_fake": True, "save_path": "out", "layout": "blocks"}))
    assert (
        "save.layout: it is a setting of lightx2v, which is not asked for; write `lightx2v: {layout: blocks}`"
        in nowhere
    )


@pytest.mark.parametrize(
    ("save", "said"),
    [
        ({"path": "a", "save_path": "b"}, "save.save_path: save.path says the same; keep one of them"),
        ({"path": "a", "lightx2v": {}, "save_lightx2v": True}, "the section save.lightx2v says the same"),
        (
            {"path": "a", "lightx2v": {"layout": "blocks"}, "layout": "single"},
            "save.layout: save.lightx2v.layout says the same; keep one of them",
        ),
    ],
    ids=str,
)
def test_a_file_says_a_thing_in_one_form(write: Write, save: dict[str, Any], said: str) -> None:
    assert said in refused(write(save))
