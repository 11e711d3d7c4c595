"""LLMC's files: what they become, what is said of them, and what they are refused for."""

import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from llmc.__main__ import main
from llmc.algorithms.awq import Awq
from llmc.compat.load import load_config, load_document
from llmc.config.schema import Config
from llmc.errors import ConfigError
from tests.configs.test_recipes_run import save_lora
from tests.tiny_pipelines import TINY, save_samples

GOLDEN = Path(__file__).parents[2] / "golden" / "llmc_configs"
CONFIGS = {f"{path.parent.name}/{path.stem}": path for path in sorted(GOLDEN.rglob("*.yaml"))}
NOT_FOR_LIGHTX2V = {"wan_t2v/awq_w_a", "wan_t2v/rtn_w_a", "wan_t2v/smoothquant_w_a", "wan2_2_t2v/awq_w_a"}
AWQ = GOLDEN / "wan_i2v" / "awq_w_a.yaml"
RTN = GOLDEN / "wan_i2v" / "rtn_w_a.yaml"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of each kind, samples, and a LoRA."""
    folder = tmp_path_factory.mktemp("llmc")
    for family in ("WanI2V", "WanT2V", "Wan2T2V"):
        TINY[family][0](folder / family)
    save_samples(folder / "samples", 1)
    save_lora(folder / "WanI2V", folder / "lora.safetensors")
    return folder


def paths(config: Path, place: Path) -> list[str]:
    """The paths of a file, changed as its user would."""
    text = config.read_text(encoding="utf-8")
    family = re.findall(r"type: (Wan\w+)", text)[0]
    changes = [f"model.path={place / family}", f"save.save_path={place / 'export'}", f"base.run_dir={place / 'run'}"]
    changes += [f"{section}.path={place / 'samples'}" for section in ("calib", "eval") if f"\n{section}:" in text]
    return changes + [f"model.lora_path={place / 'lora.safetensors'}"] * ("lora_path" in text)


def check(config: Path, *changes: str) -> int:
    return main(["check", str(config), *(word for change in changes for word in ("--set", change))])


def changed(folder: Path, old: str, new: str, of: Path = AWQ) -> Path:
    """A file of LLMC's with some text replaced."""
    text = of.read_text(encoding="utf-8")
    assert old in text
    path = folder / "config.yaml"
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    return path


def seconds_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def refusal(path: Path, *changes: str) -> str:
    with pytest.raises(ConfigError) as refused:
        load_config(path, changes)
    return str(refused.value)


def notes(config: Config) -> tuple[str, ...]:
    assert config.source is not None
    return config.source.notes


def with_special(folder: Path, special: str, method: str = "Awq") -> Path:
    """A file of LLMC's that says something else beside the method."""
    text = AWQ.read_text(encoding="utf-8").replace("method: Awq", f"method: {method}")
    before, there, rest = text.partition("        special:\n")
    path = folder / "config.yaml"
    path.write_text(f"{before}{there[:-1]} {special}\n{rest[rest.index('save:') :]}", encoding="utf-8")
    return path


@pytest.mark.parametrize("name", CONFIGS)
def test_every_file_passes_its_check_with_nothing_but_paths_changed(
    name: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, changes = CONFIGS[name], paths(CONFIGS[name], place)
    if name in NOT_FOR_LIGHTX2V:
        assert check(config, *changes) == 2
        (override,) = re.findall(r"--set (\S+)", capsys.readouterr().err)
        changes.append(override)
    assert check(config, *changes) == 0
    said = capsys.readouterr().out
    assert ("\nexport " in said) == (name not in NOT_FOR_LIGHTX2V)
    assert ("\njudge " in said) == (name != "wan2_2_t2v/awq_w_a")


def test_an_export_that_nothing_reads_is_refused_at_once_with_the_override_that_makes_it_run(place: Path) -> None:
    config = CONFIGS["wan_t2v/rtn_w_a"]
    changes = [word for change in paths(config, place) for word in ("--set", change)]
    before = seconds_of_children()
    done = subprocess.run(
        [sys.executable, "-m", "llmc", "run", "--config", config, *changes], capture_output=True, text=True
    )
    assert seconds_of_children() - before < 2  # of computing, however busy the machine is with others
    assert done.returncode == 2 and done.stderr.startswith(f"error: {config}:20: quant.video_gen: lightx2v was asked")
    assert done.stderr.endswith(
        "found weight int6 per_channel, act int6 per_token; to run without this export: --set save.lightx2v=False\n"
    )
    assert not (place / "run").exists()


@pytest.mark.parametrize(
    ("special", "scale", "clip"),
    [
        ("{trans: True, trans_version: v2, weight_clip: False, clip_sym: True}", True, False),
        ("{trans: True, trans_version: v2, weight_clip: True, clip_sym: True}", True, True),
        ("{trans: False, weight_clip: True}", False, True),
        ("{trans: True}", True, False),
        ("{trans_version: v2, clip: True}", True, True),
        ("{}", True, True),
    ],
)
def test_the_switches_of_awq_are_its_settings(special: str, scale: bool, clip: bool, tmp_path: Path) -> None:
    config = load_config(with_special(tmp_path, special))
    assert config.recipe() == (Awq(scale=scale, clip=clip),) and notes(config) == ()


@pytest.mark.parametrize(
    ("special", "key", "says"),
    [
        ("{trans: 3}", "special.trans", "it is 3; True or False is needed"),
        ("{weight_clip: maybe}", "special.weight_clip", "it is maybe; True or False is needed"),
        ("{clip_sym: 1}", "special.clip_sym", "it is 1; True or False is needed"),
        ("{trans_version: v1}", "special.trans_version", "it is v1; only v2 is known"),
        ("{trans: True, weight_clip: True, clip: True}", "special.weight_clip", "special.clip says the same; keep one"),
        ("{trans: False}", "method", "scale and clip are both False, so that Awq would do nothing"),
        ("{trans: True, weigth_clip: True}", "special.weigth_clip", "unknown key"),
        ("{trans: True, save_clip: True}", "special.save_clip", "unknown key"),
    ],
)
def test_a_switch_of_awq_that_is_none_is_refused_in_its_line(special: str, key: str, says: str, tmp_path: Path) -> None:
    path = with_special(tmp_path, special)
    line = 42 if key.startswith("special") else 32
    said = refusal(path)
    assert said.startswith(f"{path}:{line}: quant.video_gen.{key}: ") and says in said


def test_the_switches_of_awq_are_unknown_to_other_methods(tmp_path: Path) -> None:
    path = with_special(tmp_path, "{alpha: 0.5, weight_clip: True}", "SmoothQuant")
    assert "quant.video_gen.special.weight_clip: unknown key; allowed: name, gate, alpha" in refusal(path)


def test_a_clip_that_is_not_as_the_grid_lies_is_noted(tmp_path: Path) -> None:
    config = load_config(with_special(tmp_path, "{weight_clip: True, clip_sym: False}"))
    assert notes(config) == ("special.clip_sym is not used: ranges are clipped as `symmetric` lets the grid lie",)


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("group_size: -1", "group_size: -2", "37: quant.video_gen.weight.group_size: it is -2; it must be at least 1"),
        ("granularity: per_channel", "granularity: per_group", "37: quant.video_gen.weight.group_size: it is -1"),
        ("torch_dtype: auto", "lora_pth: x", "6: model.lora_pth: unknown key"),
        ("torch_dtype: auto", "lora_path: [x]", "6: model.lora_path: it is [x]; a path is needed"),
        ("torch_dtype: auto", "lora_path: x\n    lora: [{path: y}]", "6: model.lora_path: model.lora says what is"),
        ("bs: 1", "use_cpu_to_save_cuda_mem_for_catcher: True", "12: calib.use_cpu_to_save_cuda_mem_for_catcher: unkn"),
        ("eval_pos: [fake_quant]", "eval_pos: []\n    pos: [fake_quant]", "20: eval.pos: unknown key"),
        ("save_lightx2v: True", "save_vllm: True", "48: save.save_vllm: unknown key"),
    ],
)
def test_what_llmc_does_not_know_either_or_means_nothing_here_is_refused_in_its_line(
    old: str, new: str, says: str, tmp_path: Path
) -> None:
    path = changed(tmp_path, old, new)
    assert f"{path}:{says}" in refusal(path)


def test_keys_without_an_effect_are_noted(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = CONFIGS["wan2_2_t2v/awq_w_a"]
    assert check(config, *paths(config, place), "save.save_lightx2v=False") == 0
    assert [line for line in capsys.readouterr().out.splitlines() if line.startswith("note: ")] == [
        "note: model.use_cpu_to_save_cuda_mem_for_catcher is not used: of what blocks read, a bounded sample is kept",
        "note: eval.eval_pos is empty: no videos are made, and nothing is judged",
    ]


def test_a_lora_that_is_not_there_is_spoken_of_as_the_file_does(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = CONFIGS["wan_i2v/rtn_w_a_lora"]
    assert check(config, *paths(config, place)[:-1]) == 2
    assert f"{config}:6: model.lora_path: /path/to/lora_weights does not exist" in capsys.readouterr().err


def test_plain_rounding_needs_no_calib_and_takes_the_steps_of_the_pipeline(tmp_path: Path) -> None:
    config = load_config(RTN)
    assert config.calib is None and [how.steps for how in config.eval_samplings()] == [50]
    assert notes(config) == ("eval.steps is not given, and no calib to take it from: 50, as in LLMC",)
    assert [how.steps for how in load_config(RTN, ["eval.steps=4"]).eval_samplings()] == [4]
    assert "eval.steps: the key is missing" in refusal(RTN, "model.type=Wan2I2V")
    assert "calib: the key is missing" in refusal(RTN, "quant.video_gen.method=SmoothQuant")
    static = "quant.video_gen.act={bit: 8, granularity: per_tensor, static: True}"
    assert "calib: the key is missing" in refusal(RTN, static)


def test_a_calib_that_set_begins_is_as_eval_where_it_says_nothing() -> None:
    config = load_config(RTN, ["calib.path=/samples", "calib.num_frames=5", "quant.video_gen.method=SmoothQuant"])
    assert config.calib is not None and config.eval is not None
    told = {"path": Path("/samples"), "num_frames": 5, "sample_steps": 50, "target_height": 480, "guidance_scale": 5.0}
    assert config.calib.model_dump().items() >= told.items()
    assert notes(config) == (
        "calib is given by --set alone; as eval has it: name, download, bs, target_height, target_width, "
        "guidance_scale, sample_steps",
    )  # fmt: skip
    assert "--set calib.pth=/samples: calib.pth: unknown key" in refusal(RTN, "calib.pth=/samples")


def test_what_is_printed_is_the_same_configuration(place: Path, tmp_path: Path) -> None:
    for config in CONFIGS.values():
        changes = [*paths(config, place), "save.save_lightx2v=False"]
        printed = tmp_path / "printed.yaml"
        printed.write_text(load_document(config, changes).as_yaml(), encoding="utf-8")
        ours, theirs = load_config(printed), load_config(config, changes)
        assert ours.model_dump() == theirs.model_dump() and ours.fingerprint() == theirs.fingerprint()
