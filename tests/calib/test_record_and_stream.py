"""Recording a real pipeline, and running its network block by block over what was recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from llmc.calib.group import Group
from llmc.calib.observation import Observation
from llmc.calib.record import record_calls
from llmc.calib.recording import cached_recording
from llmc.calib.samples import read_samples
from llmc.calib.store import Call, CallStore
from llmc.calib.stream import BlockStream, Observing
from llmc.calib.teacher import first_tensor
from llmc.engine.calibrate import CalibrationPlan, calibrate
from llmc.engine.network import Network, prepare
from llmc.errors import AdapterError, CalibrationError
from llmc.layers.linear import QuantLinear, in_mode
from llmc.layers.transforms import Scale
from llmc.models.loaded import LoadedModel
from llmc.models.parts import Part
from llmc.models.samples import OnStep, Sample, Sampling, Video
from llmc.models.wan import WanI2V
from llmc.numerics.spec import LayerSpec, TensorSpec
from llmc.policy.rules import Policy
from tests.tiny_pipelines import save_samples, save_wan_i2v

CPU = torch.device("cpu")
W8A8 = LayerSpec(
    weight=TensorSpec(format="int8", granularity="per_channel"), act=TensorSpec(format="int8", granularity="per_token")
)
SAMPLING = Sampling(height=32, width=48, num_frames=5, steps=3, guidance_scale=4.0, seed=3)
STATISTICS = frozenset({"absmax", "rows"})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wan")
    save_wan_i2v(folder / "model")
    save_samples(folder / "samples")
    return folder


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Any:
    return WanI2V().load(folder / "model", "auto", "cpu")


@pytest.fixture
def pipeline(loaded: Any) -> Any:
    return deepcopy(loaded)


@pytest.fixture
def network(pipeline: Any) -> Network:
    return prepare(WanI2V().parts(pipeline)[0], Policy(W8A8), ())


def planned(folder: Path) -> list[tuple[int, Sample, Sampling]]:
    samples = read_samples(folder / "samples", needs_image=True)
    return [(i, sample, SAMPLING) for i, sample in enumerate(samples)]


def record(pipeline: Any, part: Part, folder: Path, store: CallStore) -> list[Video]:
    return record_calls(
        LoadedModel(WanI2V(), pipeline), [part], planned(folder), {"transformer": store}, keep_outputs=True
    )


@pytest.fixture(scope="module")
def recorded(loaded: Any, folder: Path) -> tuple[CallStore, list[Video]]:
    """The calls of the float network, and the videos that were made meanwhile."""
    pipeline, store = deepcopy(loaded), CallStore()  # weights as they were read may lie where products round otherwise
    videos = record(pipeline, WanI2V().parts(pipeline)[0], folder, store)
    return store, videos


@pytest.fixture
def store(recorded: tuple[CallStore, list[Video]]) -> CallStore:
    return recorded[0]


def test_every_call_knows_its_sample_step_timestep_and_branch(recorded: tuple[CallStore, list[Video]]) -> None:
    store, videos = recorded
    calls = store.headers()
    assert [(c.sample, c.step, c.branch) for c in calls] == [
        (sample, step, branch) for sample in (0, 1) for step in (0, 1, 2) for branch in ("cond", "uncond")
    ]
    timesteps = [call.timestep for call in calls[:6:2]]
    assert None not in timesteps and timesteps == sorted(timesteps, reverse=True)
    assert videos[0].frames.shape == (5, 32, 48, 3)
    assert not torch.equal(videos[0].latents, videos[1].latents)


class ByPosition(WanI2V):
    """Calls its network with a timestep that has no name in the call."""

    def generate(self, pipeline: Any, sample: Sample, sampling: Sampling, on_step: OnStep | None = None) -> Video:
        latents, text, image = torch.ones(1, 36, 1, 4, 4), torch.ones(1, 512, 32), torch.ones(1, 17, 32)
        pipeline.transformer(latents, torch.tensor([700.0]), text, image)
        return Video(torch.zeros(0, dtype=torch.uint8), latents)


def test_a_timestep_is_found_wherever_it_stands_in_the_call(pipeline: Any, folder: Path) -> None:
    store, adapter = CallStore(), ByPosition()
    record_calls(LoadedModel(adapter, pipeline), adapter.parts(pipeline), planned(folder)[:1], {"transformer": store})
    assert [call.timestep for call in store.headers()] == [700.0]


def test_a_tensor_that_calls_share_is_kept_once(store: CallStore) -> None:
    # of each sample: two prompts, one image, and per call a latent, a timestep shared by both branches, and an output
    calls = list(store.calls("cpu"))
    prompts = {call.kwargs["encoder_hidden_states"].data_ptr() for call in calls}
    assert len(prompts) == 4
    tensors = [tensor for call in calls for tensor in (*call.kwargs.values(), *call.output)]
    assert store.nbytes() < 0.7 * sum(t.numel() * t.element_size() for t in tensors if isinstance(t, torch.Tensor))


@torch.no_grad()
def test_streamed_blocks_equal_the_full_forward_bit_for_bit(pipeline: Any, network: Network, folder: Path) -> None:
    store = CallStore()
    observation = Observation(network.groups, STATISTICS, 12, 64)
    with observation.watching():
        record(pipeline, network.part, folder, store)
    observation.attach()
    at_once = {group.name: group.stats for group in network.groups}
    seen: dict[str, list[torch.Tensor]] = {}
    for block in BlockStream(network.part, network.blocks, store, Observing(STATISTICS, 64)):
        for group in block.groups:
            for name, value in group.stats.items():
                assert torch.equal(value, at_once[group.name][name]), (group.name, name)
        seen[block.name] = []
    assert list(seen) == ["blocks.0", "blocks.1"]
    for call in store.calls("cpu"):
        assert torch.equal(first_tensor(network.part.module(*call.args, **call.kwargs)), first_tensor(call.output))


@pytest.mark.parametrize("early", [frozenset(), frozenset({"gram"})], ids=["rounding only", "also before"])
@torch.no_grad()
def test_a_second_look_sees_what_the_rounded_linears_before_give(
    network: Network, store: CallStore, early: frozenset[str]
) -> None:
    needs = frozenset({"gram", "rows"})
    how = Observing(needs, 64, "quantized", within=True, early=early)
    stream = BlockStream(network.part, network.blocks, store, how)
    for block in stream:
        names = [[group.name.partition(f"{block.name}.")[2] for group in stage] for stage in block.stages]
        assert names == [
            ["attn1.to_q", "attn2.to_k", "attn2.add_k_proj"],
            ["attn1.to_out.0"], ["attn2.to_q"], ["attn2.to_out.0"], ["ffn.net.0.proj"], ["ffn.net.2"],
        ]  # fmt: skip
        first = {group.name: group.sums["gram"].result() for group in block.groups if "gram" in group.sums}
        assert len(first) == (len(block.groups) if early else len(block.stages[0]))  # no look that nobody asks for
        multiplier = torch.linspace(0.5, 2, 64)  # what v and o agree on is no part of what o reads
        block.stages[1][0].transform(Scale(multiplier))
        for stage in block.in_turn():
            for layer in stage.linears.values():
                layer.round()
        assert torch.equal(first[block.groups[0].name], block.groups[0].sums["gram"].result())
        with in_mode(network.layers.values(), "float"), in_mode(block.linears.values(), "quantized"):
            groups = block.groups[1:] if block.name == "blocks.0" else []
            for group, wanted in zip(groups, grams_of(network, groups, store), strict=True):
                torch.testing.assert_close(group.sums["gram"].result(), wanted, rtol=1e-4, atol=1e-4)
        last = block.stages[-1][0]
        assert last.name not in first or not torch.equal(first[last.name], last.sums["gram"].result())


def grams_of(network: Network, groups: Sequence[Group], store: CallStore) -> list[torch.Tensor]:
    """x^T x of each group's input over whole forwards, in the float model's basis."""
    read: dict[QuantLinear, list[torch.Tensor]] = {group.linears[0]: [] for group in groups}
    hooks = [layer.register_forward_pre_hook(lambda layer, args: read[layer].append(args[0])) for layer in read]
    for call in store.calls("cpu") if groups else ():
        network.part.module(*call.args, **call.kwargs)
    for hook in hooks:
        hook.remove()
    grams = []
    for layer, inputs in read.items():
        x = torch.cat([each.flatten(0, -2) for each in inputs])
        for transform in layer.state.transforms:
            x = transform.undo(x)
        grams.append(x.T @ x)
    return grams


def test_a_wrong_block_order_is_refused(network: Network, store: CallStore) -> None:
    turned = replace(network.part, blocks=tuple(reversed(network.part.blocks)))
    with pytest.raises(AdapterError, match=r"blocks\.1"):
        list(BlockStream(turned, network.blocks[::-1], store, Observing(STATISTICS, 8)))


def test_a_value_error_in_the_pipeline_ends_the_recording_with_that_error(
    pipeline: Any, network: Network, folder: Path
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise ValueError("the scheduler is broken")

    pipeline.scheduler.step = fail
    with pytest.raises(ValueError, match="the scheduler is broken"):
        record(pipeline, network.part, folder, CallStore())


@torch.no_grad()
def test_later_blocks_see_the_errors_of_earlier_ones_when_quantized_outputs_are_propagated(
    network: Network, store: CallStore
) -> None:
    rows: dict[str, list[torch.Tensor]] = {}
    for propagate in ("float", "quantized"):
        for block in BlockStream(network.part, network.blocks, store, Observing(STATISTICS, 64, propagate)):  # type: ignore[arg-type]
            rows.setdefault(block.name, []).append(block.groups[0].stats["rows"])
            for layer in block.linears.values():
                layer.round()
    assert torch.equal(*rows["blocks.0"])
    assert not torch.equal(*rows["blocks.1"])


def test_a_recording_on_disk_is_read_by_the_next_run(
    pipeline: Any, network: Network, folder: Path, recorded: tuple[CallStore, list[Video]], tmp_path: Path
) -> None:
    one_by_one = dict(enumerate(planned(folder)))

    def make(sample: int, stores: dict[str, CallStore]) -> Video:
        parts = [network.part]
        return record_calls(LoadedModel(WanI2V(), pipeline), parts, [one_by_one[sample]], stores, keep_outputs=True)[0]

    fresh = cached_recording(tmp_path / "float", ["transformer"], [0, 1], make)
    again = cached_recording(
        tmp_path / "float", ["transformer"], [0, 1], lambda sample, stores: pytest.fail("recorded twice")
    )
    store, at_once = recorded
    for video, kept, read in zip(at_once, fresh.videos, again.videos, strict=True):
        assert torch.equal(video.frames, kept.frames) and torch.equal(video.frames, read.frames)
    for before, kept, read in zip(
        store.calls("cpu"),
        fresh.calls["transformer"].calls("cpu"),
        again.calls["transformer"].calls("cpu"),
        strict=True,
    ):
        assert (before.step, before.branch, before.kwargs.keys()) == (read.step, read.branch, read.kwargs.keys())
        for call in (kept, read):
            assert torch.equal(before.kwargs["hidden_states"], call.kwargs["hidden_states"])


class Pipeline:
    """Makes a small video of each sample, and fails at one if it is to."""

    def __init__(self, fails_at: int = -1) -> None:
        self.fails_at = fails_at
        self.made: list[int] = []

    def __call__(self, sample: int, stores: dict[str, CallStore]) -> Video:
        self.made.append(sample)
        stores["part"].add(Call(sample, 0, 1.0, "cond", (torch.full((2,), sample), torch.ones(3))))
        if sample == self.fails_at:
            raise RuntimeError("power cut")
        return Video(torch.zeros(1, 3, 2, 2, dtype=torch.uint8), torch.full((1,), sample))


def test_what_json_has_no_word_for_is_kept_in_a_recording(tmp_path: Path) -> None:
    given = (float("inf"), torch.ones(2)), {"scale": float("-inf"), "shift": 0.5}

    def make(sample: int, stores: dict[str, CallStore]) -> Video:
        stores["part"].add(Call(0, 0, None, "cond", *given))
        return Video(torch.zeros(0, dtype=torch.uint8), torch.zeros(1))

    cached_recording(tmp_path / "float", ["part"], [0], make)
    read = cached_recording(tmp_path / "float", ["part"], [0], lambda sample, stores: pytest.fail("recorded twice"))
    (call,) = read.calls["part"].calls("cpu")
    assert (call.args[0], call.kwargs, call.timestep) == (float("inf"), {"scale": float("-inf"), "shift": 0.5}, None)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-3])


@pytest.mark.parametrize("damage", [cut, Path.unlink])
@pytest.mark.parametrize("file", ["part/0.safetensors", "part/1.safetensors", "sample.0.safetensors"])
def test_a_recording_that_is_damaged_is_made_again_and_the_log_says_so(
    file: str, damage: Callable[[Path], object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cached_recording(tmp_path / "float", ["part"], [0], Pipeline())
    damage(tmp_path / "float" / file)
    again = Pipeline()
    recording = cached_recording(tmp_path / "float", ["part"], [0], again)
    assert again.made == [0] and [len(call.args[1]) for call in recording.calls["part"].calls("cpu")] == [3]
    if (file, damage) != ("sample.0.safetensors", Path.unlink):  # then it was never finished
        assert str(tmp_path / "float" / file) in caplog.text and "is damaged, and made again" in caplog.text
    once_more = Pipeline()
    cached_recording(tmp_path / "float", ["part"], [0], once_more)
    assert once_more.made == []


def test_a_recording_that_broke_off_goes_on_after_the_samples_that_are_whole(tmp_path: Path) -> None:
    breaks, goes_on = Pipeline(fails_at=2), Pipeline()
    with pytest.raises(RuntimeError):
        cached_recording(tmp_path / "float", ["part"], [0, 1, 2, 3], breaks)
    assert not (tmp_path / "float").exists()
    assert len(list((tmp_path / "float.partial" / "part").iterdir())) == 4, "two tensors of each sample that is whole"
    recording = cached_recording(tmp_path / "float", ["part"], [0, 1, 2, 3], goes_on)
    assert (breaks.made, goes_on.made) == ([0, 1, 2], [2, 3])
    assert [float(video.latents) for video in recording.videos] == [0, 1, 2, 3]
    assert [float(call.args[0][0]) for call in recording.calls["part"].calls("cpu")] == [0, 1, 2, 3]
    assert not (tmp_path / "float.partial").exists()


def test_a_disk_that_fills_up_while_recording_is_told_with_the_file_and_given_back(
    tmp_path: Path, little_room: int
) -> None:
    def make(sample: int, stores: dict[str, CallStore]) -> Video:
        stores["part"].add(Call(0, 0, 1.0, "cond", (torch.ones(2),)))
        stores["part"].add(Call(0, 1, 1.0, "cond", (torch.ones(little_room),)))
        raise AssertionError("there is no room for that")

    with pytest.raises(CalibrationError, match=r"float\.partial/part/1\.safetensors cannot be written: .* make room"):
        cached_recording(tmp_path / "float", ["part"], [0], make)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_down_is_recorded_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def make(sample: int, stores: dict[str, CallStore]) -> Video:
        stores["part"].add(Call(sample, 0, 1.0, "cond", (torch.ones(2), object())))
        return Video(torch.zeros(0), torch.zeros(1))

    recording = cached_recording(tmp_path / "float", ["part"], [0, 1], make)
    assert len(recording.videos) == len(recording.calls["part"]) == 2
    assert caplog.text.count("sample 0 cannot be kept: a object is neither") == 1 and "sample 1" not in caplog.text
    assert not (tmp_path / "float").exists()


@torch.no_grad()
@pytest.mark.parametrize("symmetric", [True, False])
def test_a_static_activation_gets_the_range_of_every_call(pipeline: Any, folder: Path, symmetric: bool) -> None:
    act = TensorSpec(format="int8", granularity="per_tensor", dynamic=False, symmetric=symmetric)
    network = prepare(WanI2V().parts(pipeline)[0], Policy(LayerSpec(weight=W8A8.weight, act=act)), ())
    seen: list[torch.Tensor] = []
    layer = network.layers["blocks.1.ffn.net.2"]
    hook = layer.register_forward_pre_hook(
        lambda module, args: seen.append(torch.stack([args[0].min(), args[0].max()]))
    )
    calibrate(LoadedModel(WanI2V(), pipeline), [network], CalibrationPlan(planned(folder), 32))
    hook.remove()
    low, high = torch.stack(seen).T
    assert layer.state.static is not None
    scale, zero = layer.state.static
    if symmetric:
        assert zero is None and scale.item() == pytest.approx(max(-low.min(), high.max()).item() / 127)
    else:
        assert scale.item() == pytest.approx((high.max() - low.min()).item() / 255)
        assert zero is not None and zero.item() == round(-128 - low.min().item() / scale.item())
