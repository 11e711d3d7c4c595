"""Calibration data of another model are refused by what differs, before anything is calibrated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmc.calib.samples import read_samples
from llmc.compat.modelslim.scripted.calib_data import CalibData, origin_of
from llmc.compat.modelslim.scripted.call_checks import check_calls
from llmc.compat.modelslim.scripted.dump import read_calls
from llmc.errors import CalibrationError
from llmc.models.base import adapter_of, adapters
from llmc.scripted import (
    DumperManager,
    M4ProcessorConfig,
    SessionConfig,
    TimestepManager,
    W8A8DynamicProcessorConfig,
    quant_model,
    safe_torch_load,
)
from tests.compat.modelslim.scripted.conftest import Load
from tests.tiny_pipelines import TINY, save_samples


def quantize(model: torch.nn.Module, calls: list[Any]) -> None:
    processors = {"m4": M4ProcessorConfig(), "w8a8_dynamic": W8A8DynamicProcessorConfig()}
    quant_model(model, SessionConfig(processor_cfg_map=processors, calib_data=calls))


def other(model: Any, **settings: Any) -> torch.nn.Module:
    """A model of the same class with other settings."""
    changed: torch.nn.Module = type(model).from_config({**model.config, **settings})
    return changed


def test_a_dump_says_which_model_it_is_of_and_so_do_its_slices(load: Load, dumped: Callable[..., list[Any]]) -> None:
    calls = dumped("args")
    assert isinstance(calls, CalibData) and isinstance(calls[:2], CalibData) and len(calls[:2]) == 2
    assert calls[::2].origin == origin_of(load().transformer)
    session = SessionConfig(processor_cfg_map={"w8a8_dynamic": W8A8DynamicProcessorConfig()}, calib_data=calls)
    assert session.calib_data is calls


def test_a_model_of_other_settings_is_told_by_them(load: Load, dumped: Callable[..., list[Any]]) -> None:
    model = load().transformer
    deeper = other(model, num_layers=3, rope_axes_dim=(6, 4, 6))
    with pytest.raises(CalibrationError, match=r"num_layers is 2 there and 3 here, rope_axes_dim is \[4, 6, 6\] there"):
        quantize(deeper, dumped("args")[:1])
    model.register_to_config(_name_or_path="elsewhere", a_setting_of_a_later_version=1)
    quantize(model, dumped("args"))


@pytest.mark.parametrize(
    "settings, reason",
    [
        ({"text_embed_dim": 48}, r"context_embedder\.\S+ takes 48 channels, and is given 32"),
        ({"in_channels": 8}, r"x_embedder\.proj takes 8 channels, and is given 4"),
        ({"pooled_projection_dim": 16}, r"time_text_embed\.\S+ takes 16 channels, and is given 32"),
    ],
)
def test_an_older_dump_of_another_model_is_told_by_the_layer_that_cannot_take_it(
    settings: dict[str, Any], reason: str, load: Load, dumped: Callable[..., list[Any]]
) -> None:
    model = other(load().transformer, **settings)
    with pytest.raises(CalibrationError, match=rf"calib_data\[0\] is no call of this Hunyuan\w+: {reason}") as refused:
        quantize(model, list(dumped("args")))
    assert "the call has hidden_states (1, 4, 2, 4, 4) float32, timestep (1,) " in str(refused.value)
    assert "QuantLinear" not in str(model)


def test_a_dump_in_another_type_is_told_by_it(load: Load, dumped: Callable[..., list[Any]]) -> None:
    with pytest.raises(CalibrationError, match=r"linear_1 is in bfloat16, and is given float32"):
        quantize(load().transformer.to(torch.bfloat16), dumped("args"))


def test_what_only_the_network_itself_finds_wrong_is_told_in_its_words(
    load: Load, dumped: Callable[..., list[Any]]
) -> None:
    calls = [{**call, "guidance": None} for call in dumped("kwargs")]
    with pytest.raises(CalibrationError, match=r"no call of this .+: the network says: .*shape.*; the call"):
        quantize(load().transformer, calls)


def test_each_form_of_call_is_tried_once(load: Load, dumped: Callable[..., list[Any]]) -> None:
    model, calls = load().transformer, dumped("kwargs")
    calls[2] |= {"hidden_states": calls[2]["hidden_states"][..., :2]}
    part, ran = adapter_of(model).part_of(model), []
    model.register_forward_pre_hook(lambda *_: ran.append(1))
    check_calls(part, read_calls(calls, model))
    assert len(ran) == 2


@pytest.mark.slow
@pytest.mark.parametrize("family", [name for name, adapter in adapters().items() if adapter.network])
def test_calls_of_every_network_that_a_script_can_quantize_are_taken(family: str, tmp_path: Path) -> None:
    make, sampling = TINY[family]
    make(tmp_path / "model")
    save_samples(tmp_path / "samples", 1)
    adapter = adapters()[family]()
    pipeline = adapter.load(tmp_path / "model", "auto", "cpu")
    needed = {"needs_image": adapter.needs_image, "needs_last_image": adapter.needs_last_image}
    (sample,) = read_samples(tmp_path / "samples", **needed)
    dumper = DumperManager(pipeline.transformer, "timestep")
    TimestepManager.set_timestep_idx(0)
    adapter.generate(pipeline, sample, sampling, TimestepManager.set_timestep_idx)
    dumper.save(tmp_path / "calib_data.pth")
    quantize(pipeline.transformer, safe_torch_load(tmp_path / "calib_data.pth"))
    assert "QuantLinear" in str(pipeline.transformer)
