"""What a configuration means once it is read."""

from pathlib import Path

import pytest

from llmc.algorithms.rtn import RTN
from llmc.algorithms.smoothquant import SmoothQuant
from llmc.compat.load import load_config
from llmc.config.quant import ActConfig, NetworkConfig, WeightConfig
from llmc.config.schema import Config
from llmc.errors import ConfigError
from tests.config.conftest import Write

ACT = {"bit": 8}


@pytest.fixture
def config(good: str, write: Write) -> Config:
    return load_config(write(good))


def test_special_holds_the_settings_of_a_single_method() -> None:
    quant = NetworkConfig.model_validate({"method": "SmoothQuant", "special": {"alpha": 0.75}, "act": ACT})
    assert quant.method == (SmoothQuant(alpha=0.75),)


def test_methods_are_a_name_a_mapping_or_a_list_of_both() -> None:
    for method in ("SmoothQuant", {"name": "SmoothQuant"}, ["SmoothQuant"], [{"name": "SmoothQuant"}]):
        assert NetworkConfig.model_validate({"method": method, "act": ACT}).method == (SmoothQuant(),)
    both = NetworkConfig.model_validate({"method": [{"name": "SmoothQuant", "alpha": "search"}, "RTN"], "act": ACT})
    assert both.method == (SmoothQuant(alpha="search"), RTN())


def test_special_beside_several_methods_is_refused() -> None:
    with pytest.raises(ValueError, match="special is given"):
        NetworkConfig.model_validate({"method": ["SmoothQuant", "RTN"], "special": {"alpha": 1}, "act": ACT})


def test_the_words_of_llmc_name_our_grids() -> None:
    words = {
        "quant_type": "float-quant",
        "bit": "e4m3",
        "symmetric": True,
        "granularity": "per_channel",
        "use_qtorch": True,
    }
    spec = WeightConfig.model_validate(words).spec()
    assert (spec.format.name, spec.granularity, spec.rounding) == ("fp8_e4m3", "per_channel", "qtorch")
    spec = ActConfig.model_validate({"bit": 8, "granularity": "per_tensor", "static": True}).spec()
    assert (spec.format.name, spec.granularity, spec.dynamic) == ("int8", "per_tensor", False)


@pytest.mark.parametrize(
    ("side", "words", "why"),
    [
        (WeightConfig, {"bit": "e4m3", "symmetric": False}, "its grid is symmetric"),
        (WeightConfig, {"bit": 4, "granularity": "per_group"}, "group_size is required"),
        (WeightConfig, {"bit": 4, "group_size": 64}, "allowed only there"),
        (WeightConfig, {"bit": 8, "granularity": "per_block", "group_size": 1025}, "write at most 1024"),
        (WeightConfig, {"bit": 8, "use_qtorch": True}, "use_qtorch rounds float grids"),
        (
            WeightConfig,
            {"bit": "e4m3", "use_qtorch": True, "rounding": "half_away"},
            "leave `rounding` or `use_qtorch` out",
        ),
        (WeightConfig, {"bit": "e4m3", "quant_type": "int-quant"}, "write `quant_type: float-quant`"),
        (ActConfig, {"bit": 8, "static": True}, "can only be per_tensor"),
    ],
)
def test_settings_that_do_not_fit_together_say_why(
    side: type[WeightConfig] | type[ActConfig], words: dict[str, object], why: str
) -> None:
    with pytest.raises(ValueError, match=why):
        side.model_validate(words)


def test_a_rule_inherits_the_side_that_it_does_not_name() -> None:
    rules = [{"match": "a", "weight": {"bit": 4}}, {"match": "b", "act": None}, {"match": "c", "skip": True}]
    quant = NetworkConfig.model_validate({"method": "RTN", "weight": {"bit": 8}, "act": {"bit": 8}, "rules": rules})
    specs = [quant.rule_spec(rule) for rule in quant.rules]
    assert [str(spec) for spec in specs] == [
        "weight int4 per_channel, act int8 per_token", "weight int8 per_channel, act float", "weight float, act float"
    ]  # fmt: skip


@pytest.mark.parametrize("rule", [{"match": "a"}, {"match": "a", "skip": True, "act": None}])
def test_a_rule_that_says_nothing_or_two_things_is_refused(rule: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="give it either"):
        NetworkConfig.model_validate({"method": "RTN", "act": ACT, "rules": [rule]})


def test_a_configuration_that_quantizes_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing would be quantized"):
        NetworkConfig.model_validate({"method": "RTN"})


def test_ignored_layers_and_rules_become_the_policy(good: str, write: Write) -> None:
    overrides = [
        "ignored_layers={block_ids: '0,2-3', layer_names: ['*.ffn.net.2']}",
        "quant.video_gen.rules=[{match: '*.attn1.*', weight: {bit: 4}}]",
    ]
    policy = load_config(write(good), overrides).policy()
    assert str(policy.spec_of("blocks.1.attn1.to_q")) == "weight int4 per_channel, act int8 per_token"
    assert str(policy.spec_of("blocks.1.attn2.to_q")) == "weight int8 per_channel, act int8 per_token"
    for ignored in ("blocks.0.attn1.to_q", "blocks.3.attn1.to_q", "blocks.1.ffn.net.2"):
        assert str(policy.spec_of(ignored)) == "weight float, act float"


def test_the_evaluation_takes_steps_and_seed_from_the_rest(config: Config, good: str, write: Write) -> None:
    assert [(how.steps, how.seed) for how in config.eval_samplings()] == [(20, 42)]
    changed = load_config(write(good), ["eval.steps=7", "eval.seeds=[1, 2]", "calib.seed=null", "base.seed=5"])
    assert [(how.steps, how.seed) for how in changed.eval_samplings()] == [(7, 1), (7, 2)]
    assert changed.calib_sampling().seed == 5
    assert load_config(write(good), ["eval=null"]).eval_samplings() == ()


def test_the_fingerprint_tells_work_apart_and_not_places(config: Config, good: str, write: Write) -> None:
    places = ["save.save_path=/elsewhere", "base.run_dir=here", "eval.output_video_path=there"]
    moved = load_config(write(good), [*places, "base.memory=1GB"])
    assert moved.fingerprint() == config.fingerprint() and len(config.fingerprint()) == 64
    for change in ("base.seed=1", "quant.video_gen.special.alpha=0.5", "calib.n_samples=1", "quant.video_gen.act=null"):
        assert load_config(write(good), [change]).fingerprint() != config.fingerprint()


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("8GB", 8 * 10**9),
        ("1.5 gb", 15 * 10**8),
        ("16GiB", 16 * 2**30),
        ("20kB", 20_000),
        ("7B", 7),
        ("0", 0),
        ("9", 9),
    ],
)
def test_memory_is_written_with_its_unit(written: str, size: int, good: str, write: Write) -> None:
    assert load_config(write(good), [f"base.memory={written}"]).base.memory == size


@pytest.mark.parametrize("written", ["8 GX", "much", "-1", "True", "1.5", "GB"])
def test_what_is_no_size_is_refused(written: str, good: str, write: Write) -> None:
    with pytest.raises(ConfigError, match=r"base\.memory"):
        load_config(write(good), [f"base.memory={written}"])


def test_the_run_folder_is_named_after_file_and_work(config: Config, good: str, write: Write) -> None:
    assert config.run_dir == Path("runs") / f"config-{config.fingerprint()[:8]}"
    assert load_config(write(good), ["base.run_dir=mine"]).run_dir == Path("mine")


def test_saving_needs_a_place(good: str, write: Write) -> None:
    with pytest.raises(ValueError, match="there is no `path`"):
        Config.model_validate(load_config(write(good)).model_dump() | {"save": {"fake_quant": {}}})
