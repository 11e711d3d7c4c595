"""What a script may ask for, and what is refused with its reason."""

from __future__ import annotations

from typing import Any

import pytest

from llmc.errors import ConfigError
from llmc.scripted import (
    FA3ProcessorConfig,
    M3ProcessorConfig,
    M4ProcessorConfig,
    M6Config,
    M6ProcessorConfig,
    SaveProcessorConfig,
    SessionConfig,
    W8A8DynamicProcessorConfig,
    W8A8DynamicQuantConfig,
    W8A8ProcessorConfig,
    W8A8TimeStepProcessorConfig,
)

DYNAMIC = {"w8a8_dynamic": W8A8DynamicProcessorConfig()}


@pytest.mark.parametrize(
    "processors, reason",
    [
        ({}, "has none of them; give one of w8a8, w8a8_dynamic, w8a8_timestep"),
        ({**DYNAMIC, "w8a8": W8A8ProcessorConfig()}, "has w8a8 and w8a8_dynamic; give one of"),
        ({**DYNAMIC, "m3": M3ProcessorConfig(), "m4": M4ProcessorConfig()}, "has m3 and m4; give at most one"),
        ({"w8a8": W8A8ProcessorConfig(), "fa3": FA3ProcessorConfig()}, "fa3 beside w8a8; it goes together with"),
        ({**DYNAMIC, "m5": M3ProcessorConfig()}, "it has the processor m5; allowed: m3, m4, m6, w8a8"),
        ({"w8a8_dynamic": W8A8ProcessorConfig()}, r"of the type W8A8ProcessorConfig; write 'w8a8_dynamic': W8A8Dyn"),
        (
            {**DYNAMIC, "fa3": FA3ProcessorConfig(), "save": SaveProcessorConfig(output_path="x", mindie_version=3)},
            r"save is for MindIE-SD 3 on a2, and fa3 is int8 .* write mindie_version='2\.3'",
        ),
        (
            {**DYNAMIC, "fa3": FA3ProcessorConfig(), "save": SaveProcessorConfig(output_path="x", soc="a5")},
            r"save is for MindIE-SD 2\.3 on a5, .* and soc='a2' in SaveProcessorConfig",
        ),
        ([DYNAMIC], "a dictionary is needed, found list; its keys: m3, m4"),
    ],
)  # fmt: skip
def test_a_session_is_one_recipe(processors: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        SessionConfig(processor_cfg_map=processors)


@pytest.mark.parametrize(
    "make, reason",
    [
        (lambda: SaveProcessorConfig(output_path="x", save_type=["numpy"]), r"save_type is \['numpy'\]"),
        (lambda: SaveProcessorConfig(output_path="x", part_file_size=4), "part_file_size is 4, and MindIE-SD"),
        (lambda: SaveProcessorConfig(output_path=__file__), "which is a file; name a folder"),
        (lambda: SaveProcessorConfig(output_path="x", json_name="a/b.json"), "it is the name of a file in output_path"),
        (lambda: SaveProcessorConfig(output_path="x", safetensors_name="a.pt"), "that ends in .safetensors"),
        (lambda: W8A8DynamicQuantConfig(act_method="mix"), "act_method is mix; the scale of a token is its own"),
        (lambda: SaveProcessorConfig(output_path=""), r"output_path: it is empty; name the folder to write to"),
        (lambda: SaveProcessorConfig(), r"output_path: the argument is missing; give the folder to write to"),
        (lambda: W8A8TimeStepProcessorConfig(), r"\.timestep_sep: the argument is missing; give the first step with"),
        (lambda: W8A8TimeStepProcessorConfig(timestep_sep="25"), "it is '25'; a whole number is needed"),
        (lambda: M6Config(alpha=1.5), r"^M6Config\.alpha: it is 1.5; it must be at most 1.0$"),
        (lambda: M6ProcessorConfig(cfg=3), r"\.cfg: it is 3; M6Config is needed, with the arguments alpha, beta"),
        (lambda: W8A8ProcessorConfig(cfg=W8A8DynamicQuantConfig()), "it is W8A8DynamicQuantConfig; W8A8QuantConfig is"),
        (lambda: W8A8ProcessorConfig(disable_names="fc2"), "disable_names: it is fc2; a list is needed"),
        (lambda: SessionConfig(processor_cfg_map=DYNAMIC, device="tpu"), "device: it is tpu; allowed: auto, cpu"),
        (lambda: SessionConfig(processor_cfg_map=DYNAMIC, calib_dat=[]), "calib_dat: unknown argument; did you mean"),
        (
            lambda: SessionConfig.model_validate({"processor_cfg_map": {}, "device": "tpu", "calib_data": 3}),
            r"SessionConfig has 2 problems:\n  SessionConfig\.calib_data: it is of the type int; give",
        ),
    ],
)  # fmt: skip
def test_settings_are_typed(make: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        make()


def test_steps_that_would_all_be_dynamic_are_refused_in_the_words_of_the_script() -> None:
    calls = [{"timestep_idx": step, "args": (), "kwargs": {}} for step in range(20)]

    def session(timestep_sep: int) -> SessionConfig:
        by_step = W8A8TimeStepProcessorConfig(timestep_sep=timestep_sep)
        return SessionConfig(processor_cfg_map={"w8a8_timestep": by_step}, calib_data=calls)

    with pytest.raises(
        ConfigError, match=r"timestep_sep .* is 25, and .* of 20 denoising steps .*timestep_sep=10"
    ) as no:
        session(25)
    assert "granularity" not in str(no.value) and "the dump that is there will do" in str(no.value)
    assert session(19).calib_data is calls


def test_a_session_of_the_guide_is_accepted_and_can_be_validated_again() -> None:
    save = SaveProcessorConfig(output_path="./results", safetensors_name="a.safetensors", json_name="a.json",
                               save_type=["safe_tensor"], part_file_size=None)  # fmt: skip
    processors = {"m6": M6ProcessorConfig(cfg=M6Config(alpha=0.5)), **DYNAMIC, "save": save}
    session = SessionConfig(processor_cfg_map=processors, calib_data=[()], device="npu")
    assert [SaveProcessorConfig(output_path="x", mindie_version=version).mindie_version for version in (2.3, "3")] == [
        "2.3", 3,
    ]  # fmt: skip
    assert session.model_validate(session) is session and session.linear is DYNAMIC["w8a8_dynamic"]
