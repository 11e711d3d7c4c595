"""Calibration data: what is kept of a call, in which form, and what is refused."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from llmc.compat.modelslim.scripted.dump import read_calls
from llmc.errors import CalibrationError, ConfigError
from llmc.scripted import DumperManager, TimestepManager, safe_torch_load
from tests.compat.modelslim.scripted.conftest import Load

TEXT = ["encoder_hidden_states", "encoder_attention_mask", "pooled_projections"]
NAMES = ["hidden_states", "timestep", *TEXT, "guidance"]


class Network(nn.Module):
    """What such a network is called with: tensors that change, one that stays, settings."""

    def forward(self, x: torch.Tensor, text: torch.Tensor, options: Any = None) -> torch.Tensor:
        return x + text.sum()


def test_every_form_gives_the_calls_of_the_pipeline(load: Load, dumped: Callable[..., list[Any]]) -> None:
    args, kwargs, both = (dumped(mode) for mode in ("args", "kwargs", "timestep"))
    assert len(args) == len(kwargs) == len(both) == 4  # two videos of two steps
    assert [item["timestep_idx"] for item in both] == [0, 1, 0, 1]
    model = load().transformer
    with torch.no_grad():
        for number in range(4):
            tensors = dict(zip(NAMES, args[number], strict=False))
            assert all(kwargs[number][name].equal(tensors[name]) for name in NAMES)
            assert both[number]["args"] == () and both[number]["kwargs"].keys() == kwargs[number].keys()
            outputs = [
                model(*args[number][:-1], return_dict=False)[0],
                model(**kwargs[number])[0],
                model(*both[number]["args"], **both[number]["kwargs"])[0],
            ]
            assert outputs[0].equal(outputs[1]) and outputs[0].equal(outputs[2])
    for data, steps in ((args, [0, 1, 2, 3]), (both, [0, 1, 0, 1])):
        assert [call.step for call in read_calls(data, model).headers()] == steps


def test_a_tensor_that_calls_share_is_in_the_file_once(tmp_path: Path) -> None:
    network, text = Network(), torch.randn(1000, 100)
    dumper = DumperManager(network, "timestep")
    for step in range(10):
        TimestepManager.set_timestep_idx(step)
        network(torch.full((2,), float(step)), text=text)
    dumper.save(tmp_path / "calib.pth")
    assert 4 * text.numel() < (tmp_path / "calib.pth").stat().st_size < 4.2 * text.numel()
    calls = safe_torch_load(tmp_path / "calib.pth")
    assert [float(item["args"][0][0]) for item in calls] == list(range(10))
    assert all(item["kwargs"]["text"] is calls[0]["kwargs"]["text"] for item in calls)
    assert read_calls(calls, network).nbytes() == 4 * (text.numel() + 20)


def test_what_changes_later_is_kept_as_it_was(tmp_path: Path) -> None:
    network, x = Network(), torch.zeros(2)
    dumper = DumperManager(network, "kwargs")
    for _ in range(3):
        network(x, torch.zeros(1))
        x += 1
    dumper.save(tmp_path / "calib.pth")
    assert [float(item["x"][0]) for item in safe_torch_load(tmp_path / "calib.pth")] == [0, 1, 2]


def test_after_save_nothing_is_noted_and_the_file_is_the_owners(tmp_path: Path) -> None:
    network = Network()
    dumper = DumperManager(network)
    network(torch.zeros(1), torch.zeros(1))
    dumper.save(tmp_path / "new" / "calib.pth")
    network(torch.zeros(1), torch.zeros(1))
    dumper.save(tmp_path / "again.pth")
    assert len(safe_torch_load(tmp_path / "again.pth")) == 1
    assert stat.S_IMODE((tmp_path / "new" / "calib.pth").stat().st_mode) == 0o600


def test_only_what_can_be_loaded_without_running_code_is_taken(tmp_path: Path) -> None:
    network = Network()
    DumperManager(network)
    with pytest.raises(CalibrationError, match=r"Network was called with options\['scale'\]\[1\], a device"):
        network(torch.zeros(1), torch.zeros(1), options={"scale": [1.0, torch.device("cpu")]})


def test_a_dump_without_calls_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="the model was not called"):
        DumperManager(Network()).save(tmp_path / "calib.pth")
    assert list(tmp_path.iterdir()) == []


def test_a_form_that_cannot_keep_the_arguments_is_refused() -> None:
    class Open(nn.Module):
        def forward(self, x: torch.Tensor, **others: torch.Tensor) -> torch.Tensor:
            return x

    with pytest.raises(ConfigError, match=r"Open\.forward has others, .* use 'timestep'"):
        DumperManager(Open())
    DumperManager(Open(), "timestep")
    with pytest.raises(ConfigError, match="capture_mode is 'all'; it is one of args, kwargs, timestep"):
        DumperManager(Network(), "all")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="a dict, which is no network; give the transformer"):
        DumperManager({})  # type: ignore[arg-type]


def test_a_call_that_does_not_hold_numbers_is_refused_with_its_arguments(tmp_path: Path) -> None:
    network, spoilt = Network(), torch.tensor([1.0, float("nan")])
    dumper = DumperManager(network)
    network(torch.ones(2), torch.ones(2))
    with pytest.raises(CalibrationError, match=r"call 1 of Network has NaN or infinity in options\['more'\]\[0\]"):
        network(torch.ones(2), torch.ones(2), {"more": [spoilt], "mask": -torch.ones(2) / 0})
    with pytest.raises(CalibrationError, match=r"calib_data\[1\] \(step 7\) holds NaN or infinity in text"):
        read_calls([(1, 2), {"timestep_idx": 7, "args": (torch.ones(2), spoilt), "kwargs": {}}], network)
    dumper.save(tmp_path / "calib.pth")


@pytest.mark.parametrize(
    "item", [3, "text", torch.zeros(2), *({"timestep_idx": step, "args": (), "kwargs": {}} for step in ("1", -1))]
)
def test_data_of_another_form_are_refused(item: Any) -> None:
    if isinstance(item, dict):  # told from a call by names only by what is in it
        with pytest.raises(CalibrationError, match="does not tell its denoising step"):
            read_calls([item], Network(), with_steps=True)
    else:
        with pytest.raises(CalibrationError, match=rf"calib_data\[1\] is a {type(item).__name__}"):
            read_calls([(torch.zeros(1), torch.zeros(1)), item], Network())


@pytest.mark.parametrize(
    "item, reason",
    [
        ((1,), "missing a required argument: 'text'"),
        ((1, 2, 3, 4), "too many positional arguments"),
        ({"x": 1, "text": 2, "mask": 3}, "unexpected keyword argument 'mask'"),
        ({"timestep_idx": 0, "args": (1, 2), "kwargs": {"x": 1}}, "multiple values for argument 'x'"),
    ],
)
def test_a_call_that_does_not_fit_the_network_is_named_with_its_argument(item: Any, reason: str) -> None:
    with pytest.raises(
        CalibrationError, match=rf"calib_data\[1\] is no call of Network: .*{reason}.* x, text, options"
    ):
        read_calls([(1, 2), item], Network())
