"""`base: FILE`: configurations that are built on others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmc.__main__ import main
from llmc.compat.load import load_config, load_document
from llmc.config.bases import MAX_DEEP, MAX_FILES, bases_folder
from llmc.errors import ConfigError

GOOD = Path(__file__).parent / "good.yaml"
MINE = """base: {base}
model: {{path: {model}}}
save: {{path: out, overwrite: True, lightx2v: {{}}}}
"""
Put = Callable[[str, str], Path]


@pytest.fixture
def put(tmp_path: Path) -> Put:
    """Writes a file into a folder of the test's own."""

    def written(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return path

    return written


def values(path: Path) -> dict[str, Any]:
    return load_document(path).values


def refused(path: Path, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_config(path, overrides)
    return str(caught.value)


def test_sections_are_merged_and_all_else_is_replaced(put: Put) -> None:
    put("low.yaml", "calib: {bs: 1, prompts: [a, b, c]}\nquant: {video_gen: {rules: [{match: x}], act: {bit: 8}}}\n")
    put("high.yaml", "calib: {bs: 2}\nquant: {video_gen: {rules: [], act: null}}\neval: {bs: 1}\n")
    top = put("top.yaml", "base: [low.yaml, high.yaml]\ncalib: {seed: 3}\neval: null\n")
    assert values(top) == {
        "calib": {"bs": 2, "prompts": ["a", "b", "c"], "seed": 3},
        "quant": {"video_gen": {"rules": [], "act": None}},
        "eval": None,
    }
    assert values(put("turned.yaml", "base: [high.yaml, low.yaml]"))["calib"]["bs"] == 1


def test_a_base_has_bases_of_its_own_beside_itself(put: Put) -> None:
    put("parts/lowest.yaml", "calib: {bs: 1, max_rows: 16}\n")
    put("parts/low.yaml", "base: lowest.yaml\ncalib: {max_rows: 32}\n")
    top = put("top.yaml", "base: parts/low.yaml\ncalib: {seed: 3}\n")
    assert values(top) == {"calib": {"bs": 1, "max_rows": 32, "seed": 3}}


@pytest.mark.parametrize(
    "form", ["low.yaml", "[low.yaml]", "{files: low.yaml, seed: 7}", "{files: [low.yaml], seed: 7}"]
)
def test_settings_of_the_run_can_stand_beside_the_files(put: Put, form: str) -> None:
    put("low.yaml", "base: {seed: 5, device: cpu}\n")
    assert values(put("top.yaml", f"base: {form}"))["base"] == {"seed": 7 if "7" in form else 5, "device": "cpu"}


def test_what_ships_is_found_from_anywhere_and_what_lies_beside_comes_first(put: Put) -> None:
    recipe = "recipes/int8_smoothquant.yaml"
    shipped = values(bases_folder() / recipe)
    assert values(put("top.yaml", f"base: {recipe}")) == shipped
    put(recipe, f"base: {bases_folder() / recipe}\nquant: {{video_gen: {{special: {{alpha: 0.5}}}}}}\n")
    assert values(put("top.yaml", f"base: {recipe}"))["quant"]["video_gen"]["special"] == {"alpha": 0.5}


def test_a_configuration_of_three_lines_is_the_one_that_ships(put: Put) -> None:
    mine = put("smoothquant_w_a.yaml", MINE.format(
        base="[recipes/int8_smoothquant.yaml, models/wan_i2v_tiny.yaml]", model="../assets/tiny_wan_i2v"))  # fmt: skip
    theirs = bases_folder() / "quantization" / "video_gen" / "wan_i2v_tiny" / "smoothquant_w_a.yaml"
    flat = "save={save_lightx2v: True, save_path: out, overwrite: True}"
    assert load_config(mine).fingerprint() == load_config(theirs, [flat]).fingerprint()


def test_a_copy_of_what_ships_means_the_same_elsewhere(put: Put) -> None:
    theirs = bases_folder() / "quantization" / "video_gen" / "flux" / "smoothquant_w_a_encoders.yaml"
    copied = put(theirs.name, theirs.read_text(encoding="utf-8"))
    assert load_config(copied).run_dir == load_config(theirs).run_dir


def test_inputs_are_found_beside_the_file_that_names_them(put: Put) -> None:
    put("parts/data/samples.json", "[]")
    put("parts/low.yaml", yaml.safe_dump(values(GOOD) | {"base": None}).replace("../assets/wan_i2v/calib/", "data"))
    top = put("top.yaml", "base: parts/low.yaml")
    calib = load_config(top).calib
    assert calib is not None and calib.path == top.parent / "parts" / "data"


def test_an_error_names_the_line_where_the_value_was_written(put: Put) -> None:
    low = put("low.yaml", GOOD.read_text(encoding="utf-8"))
    line = next(n for n, text in enumerate(low.read_text().splitlines(), 1) if "sample_steps" in text)
    low.write_text(low.read_text().replace("sample_steps: 20", "sample_steps: many"))
    top = put("top.yaml", "# mine\nbase: low.yaml\ncalib:\n    num_frames: few\n")
    found = refused(top)
    assert f"{low}:{line}: calib.sample_steps: it is many" in found and f"{top}:4: calib.num_frames" in found
    top.write_text("base: low.yaml\ncalib: {sample_steps: 4}\nquant: {video_gen: {weight: {bit: 9}}}\n")
    assert refused(top).startswith(f"{top}:3: quant.video_gen.weight.bit: bit is 9")
    top.write_text("base: low.yaml\ncalib: {sample_steps: 4}\nsave: {save_lightx2v: False, layout: blocks}\n")
    assert refused(top).startswith(f"{top}:3: save.layout: it is a setting of lightx2v, which is not asked for")


def test_a_flat_save_replaces_what_a_base_says_by_target(put: Put) -> None:
    flat = "save: {save_lightx2v: False, save_fake: True, save_path: here}\n"
    top = put("top.yaml", f"base: {GOOD}\n{flat}")
    assert values(top)["save"] == {"path": "here", "overwrite": True, "lightx2v": None, "fake_quant": {}}
    put("low.yaml", flat)
    assert values(put("turned.yaml", f"base: [low.yaml, {GOOD}]"))["save"]["lightx2v"] == {"native_names": True}


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("3", "top.yaml:2: base: it is 3; a file, a list of files, or a section of settings is needed"),
        ("[low.yaml, {a: 1}]", "top.yaml:2: base: it is a section with a; a file, a list of files"),
        ("{files: {a: 1}}", "top.yaml:2: base.files: it is a section with a; a file, or a list of files, is needed"),
        ("recipes/int8_smothquant.yaml", "is no file (looked for "),
        ("recipes/int8_smothquant.yaml", "did you mean int8_smoothquant.yaml?"),
        ("recipes", "top.yaml:2: base: recipes is no file"),
        ('""', "the path is empty"),
        ('"a\\0b"', "control characters"),
        ("top.yaml", "is built on this file itself; leave one of the two out"),
        ("around.yaml", "around.yaml is built on this file itself; leave one of the two out"),
        ("dialect.yaml", "is in msModelSlim's dialect, on which no file can be built"),
        ("list.yaml", "list.yaml:1: it holds a list"),
    ],
)
def test_a_base_that_is_none_is_refused_with_its_line(put: Put, base: str, said: str) -> None:
    put("low.yaml", "calib: {bs: 1}\n")
    put("around.yaml", "base: low2.yaml\n")
    put("low2.yaml", "base: [low.yaml, around.yaml]\n")
    put("dialect.yaml", "apiversion: multimodal_sd_modelslim_v1\n")
    put("list.yaml", "- 1\n")
    assert said in refused(put("top.yaml", f"# mine\nbase: {base}\n"))


def test_files_without_an_end_are_refused(put: Put) -> None:
    for number in range(MAX_DEEP):
        put(f"{number}.yaml", f"base: {number + 1}.yaml\n")
    put(f"{MAX_DEEP}.yaml", "calib: {bs: 1}\n")
    assert values(put("top.yaml", "base: 2.yaml")) == {"calib": {"bs": 1}}
    assert f"more than {MAX_DEEP} files are built on one another" in refused(put("top.yaml", "base: 0.yaml"))
    put("wide.yaml", f"base: [{', '.join(['low.yaml'] * MAX_FILES)}]")
    put("low.yaml", "calib: {bs: 1}\n")
    assert f"more than {MAX_FILES} files" in refused(put("top.yaml", f"base: [{', '.join(['wide.yaml'] * MAX_FILES)}]"))


def test_check_prints_the_whole_without_looking_at_the_disk(put: Put, capsys: pytest.CaptureFixture[str]) -> None:
    theirs = bases_folder() / "quantization" / "video_gen" / "wan22_t2v" / "full_stack_w4a8.yaml"
    assert main(["check", str(theirs), "--resolved", "--set", "calib.sample_steps=4", "--save_path", "here"]) == 0
    printed = capsys.readouterr().out
    assert "# Built on w4a8_full_stack.yaml, wan22_t2v.yaml, fake_quant.yaml.\n" in printed
    whole = put("full_stack_w4a8.yaml", printed)
    overrides = ["calib.sample_steps=4", "save.path=here"]
    assert load_config(whole).fingerprint() == load_config(theirs, overrides).fingerprint()
    assert yaml.safe_load(printed)["model"]["path"] == "/path/to/model" and "files" not in printed
    assert main(["check", str(theirs), "--resolved", "--set", "calib.sample_steps=many"]) == 2
