"""`llmc quant`: which configuration its options mean, and what it refuses."""

from pathlib import Path

import pytest

from llmc.__main__ import command_parser, main
from llmc.checks.configuration import config_problems
from llmc.compat.load import load_config
from llmc.compat.modelslim.one_command import recipe_of
from llmc.compat.modelslim.recipes import RECIPES, recipes_for, usual_calibration
from llmc.config.family import adapters_called, model_names
from llmc.models.base import adapters
from tests.tiny_pipelines import TINY

MODEL = str(Path(__file__).parents[3] / "assets" / "tiny_wan_i2v")
FULL = ["quant", "--model_path", MODEL, "--save_path", "export", "--model_type", "Wan2_1"]
SERVED = {
    "WanT2V": {"w8a8_dynamic", "w8a8_dynamic_m4", "w8a16", "w4a16"},
    "WanI2V": {"w8a8_dynamic", "w8a8_dynamic_m4", "w8a16", "w4a16"},
    "Wan2T2V": {"w8a8_dynamic"}, "Wan2I2V": {"w8a8_dynamic"}, "Wan2TI2V": {"w8a8_dynamic"},
    "HunyuanVideo": {"w8a8_static", "w8a8_timestep", "w8a8_dynamic", "w8a8_dynamic_fa3",
                     "w8a8_dynamic_m3", "w8a8_dynamic_m4", "w8a8_dynamic_m6"},
    "Flux": {"w8a8_static", "w8a8_timestep", "w8a8_dynamic", "w8a8_dynamic_fa3",
             "w8a8_dynamic_m3", "w8a8_dynamic_m4", "w8a8_dynamic_m6"},
    "SD3": {"w8a8_static", "w8a8_dynamic"}, "OpenSoraPlan": {"w8a8_static", "w8a8_dynamic"},
}  # fmt: skip


def meant(*options: str) -> tuple[Path, list[str]]:
    return recipe_of(command_parser().parse_args([*FULL, *options]), ["model.type=Wan2_1"])


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 2
    return capsys.readouterr().err


def test_a_kind_is_a_recipe_that_ships_for_the_model_in_the_folder() -> None:
    assert meant("--quant_type", "w8a8") == (
        RECIPES / "wan_i2v" / "mindie_w8a8_dynamic.yaml", ["eval=null", "model.type=Wan2_1"]
    )  # fmt: skip
    assert meant("--quant_type", "w8a16", "--eval")[1] == ["model.type=Wan2_1"]


@pytest.mark.parametrize("kind", ["W8A8", "w8a8_dynamic", "W8A8-Dynamic"])
def test_neither_letter_case_nor_dashes_of_a_kind_count(kind: str) -> None:
    assert meant("--quant_type", kind)[0].name == "mindie_w8a8_dynamic.yaml"


@pytest.mark.parametrize("name", ["wan2_1", "Wan2.1", "Wan2.1-I2V-14B", "Wan2.1-I2V-14B-720P-Diffusers", "WanI2V"])
def test_a_model_is_known_by_its_family_and_by_its_published_names(name: str) -> None:
    assert meant("--quant_type", "w8a8", "--model_type", name)[0].parent.name == "wan_i2v"
    assert load_config(meant("--quant_type", "w8a8")[0], [f"model.type={name}", f"model.path={MODEL}"]).model.type == (
        "WanI2V"
    )


@pytest.mark.parametrize("name", model_names())
def test_a_name_stands_for_models_of_one_family(name: str) -> None:
    assert len({adapter.known_as[0] for adapter in adapters_called(name).values()}) == 1


@pytest.mark.parametrize("given", [[], ["True"], ["true"], ["FALSE"]])
def test_code_that_no_model_of_a_family_brings_is_trusted_for_nothing(
    given: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        assert meant("--quant_type", "w8a8", "--trust_remote_code", *given)[1] == ["eval=null", "model.type=Wan2_1"]
    told = "--trust_remote_code True changes nothing: of WanI2V no code of others is run" in caplog.text
    assert told == (given != ["FALSE"])


def test_a_yaml_of_ones_own_keeps_its_eval() -> None:
    assert meant("--config_path", "mine.yaml") == (Path("mine.yaml"), ["model.type=Wan2_1"])


def test_judging_by_a_yaml_without_an_eval_section_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    mine = str(RECIPES / "wan_i2v_tiny" / "mindie_w8a8_dynamic.yaml")
    said = refusal(capsys, *FULL, "--config_path", mine, "--eval", "--set", "eval=null")
    assert f"--eval: {mine} has no `eval` section" in said and "leave --eval out" in said


@pytest.mark.parametrize(
    ("adapter", "kinds"), SERVED.items(), ids=lambda value: value if isinstance(value, str) else ""
)
def test_every_model_that_the_guides_serve_has_its_recipes(adapter: str, kinds: set[str]) -> None:
    assert recipes_for(adapter).keys() >= kinds
    calib = usual_calibration(adapter)
    assert calib["sample_steps"] > 0 and calib["name"] in adapters()[adapter].tasks()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "neither is given"),
        (["--quant_type", "w8a8", "--config_path", "x.yaml"], "both are given"),
        (["--quant_type", "w8a8", "--device", "npu:0,1"], "write `--device npu:0`"),
        (["--quant_type", "w8a8", "--device", "gpu"], "base.device: it is gpu"),
        (["--quant_type", "w8a8", "--device", "gpu"], "error: --device gpu: "),
        (["--quant_type", "w4a8c8"], "no such recipe ships for WanI2V; did you mean w8a8? allowed: w4a16"),
        (["--quant_type", "w8"], "did you mean w8a8? allowed: w4a16"),
        (["--quant_type", "w8a8", "--model_type", "HunyuanVideo"], "holds a WanImageToVideoPipeline"),
        (["--quant_type", "w8a8", "--model_type", "Wan2_2"], "it is WanI2V: write `--model_type WanI2V`"),
        (["--quant_type", "w8a8", "--model_type", "WanT2V"], "--model_type is WanT2V, but "),
        (["--quant_type", "w8a8", "--model_type", "Wan2.1-I2V-14B-540P"], "did you mean Wan2.1-I2V-14B-480P?"),
        (["--quant_type", "w8a8", "--model_path", "nowhere"], "--model_path nowhere is not there"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert said in refusal(capsys, *FULL, *options)


def test_options_that_are_missing_are_named_together(capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal(capsys, "quant", "--quant_type", "w8a8")
    assert "--model_path and --save_path and --model_type are missing" in said and "Wan2_1" in said


def test_a_kind_without_a_recipe_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    TINY["WanVACE"][0](tmp_path)
    said = refusal(capsys, *FULL, "--quant_type", "w8a8", "--model_path", str(tmp_path))
    assert "no recipe ships for WanVACE; write a YAML (--config_path)" in said


def test_short_options_are_values_of_the_configuration_and_set_has_the_last_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(RECIPES / "wan_i2v_tiny" / "mindie_w8a8_dynamic.yaml")
    first, numbered, last = (str(tmp_path / name) for name in ("a", "a #1", "b"))
    assert main(["check", path, "--save_path", first, "--device", "cpu"]) == 0
    assert first in capsys.readouterr().out
    assert main(["check", path, "--save_path", numbered]) == 0
    assert numbered in capsys.readouterr().out
    assert main(["check", path, "--save_path", first, "--set", f"save.save_path={last}"]) == 0
    assert last in capsys.readouterr().out


def test_code_that_is_trusted_is_said_to_the_family_that_runs_it(tmp_path: Path) -> None:
    folder = tmp_path / "29x480p"
    TINY["OpenSoraPlan"][0](folder)
    options = [*FULL[:1], "--model_path", str(folder), "--save_path", "export", "--model_type", "Open-Sora-Plan",
               "--trust_remote_code", "True", "--quant_type", "w8a8_static"]  # fmt: skip
    path, overrides = recipe_of(command_parser().parse_args(options), [])
    assert path.name == "mindie_w8a8_static.yaml" and "model.trust_remote_code=True" in overrides
    config = load_config(path, [*overrides, f"model.path={folder}"])
    assert config.model.adapter().model_dump()["trust_remote_code"] is True
    assert [problem.keys for problem in config_problems(config) if problem.keys[0] == "save"] == []
