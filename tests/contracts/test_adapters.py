"""What every model adapter promises, on a tiny real pipeline of its family."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from llmc.calib.budget import ChosenCalls
from llmc.calib.group import Group
from llmc.calib.observation import Observation
from llmc.calib.record import Watch, record_calls
from llmc.calib.store import CallStore
from llmc.calib.stream import BlockStream, Observing
from llmc.calib.teacher import relative_error, teacher_forced_errors
from llmc.convert.names import Known, Names
from llmc.convert.rename import Renamer
from llmc.engine.calibrate import until_seen
from llmc.engine.network import Network
from llmc.export.fake.transformed import transformed_tensors
from llmc.export.folding import folded_tensors
from llmc.export.part import FinishedPart
from llmc.layers.linear import in_mode
from llmc.layers.transforms import ModulatedRows, ProducerRows, Scale
from llmc.models.base import adapters
from llmc.models.loaded import LoadedModel
from tests.contracts.conftest import Family
from tests.tiny_pipelines import TINY

CPU = torch.device("cpu")
EVERY_ROW = frozenset({"rows"})


def test_every_adapter_has_a_tiny_pipeline_to_be_tested_on() -> None:
    assert TINY.keys() == adapters().keys()


@torch.no_grad()
def test_linears_of_a_group_truly_read_the_same_tensor(family: Family) -> None:
    _, networks = family.load()
    read: dict[Any, torch.Tensor] = {}
    hooks = [
        layer.register_forward_pre_hook(lambda module, args: read.__setitem__(module, args[0]))
        for network in networks for layer in network.layers.values()
    ]  # fmt: skip
    for network in networks:
        call = next(iter(family.float_calls[network.part.name].calls(CPU)))
        network.part.module(*call.args, **call.kwargs)
    for hook in hooks:
        hook.remove()
    for network in networks:
        for group in network.groups:
            first = read[group.linears[0]]
            assert all(torch.equal(read[layer], first) for layer in group.linears), group.names


@torch.no_grad()
def test_streamed_blocks_equal_the_full_forward_bit_for_bit(family: Family) -> None:
    _, networks = family.load()
    for network in networks:
        calls = family.float_calls[network.part.name]
        steps = BlockStream(network.part, network.blocks, calls, Observing(EVERY_ROW, 10**9))
        assert [step.name for step in steps] == [name for name, _ in network.part.blocks]
    groups = [group for network in networks for group in network.groups]
    for group, wanted in zip(groups, family.float_run.rows, strict=True):
        assert torch.equal(group.stats["rows"], wanted), group.name


@torch.no_grad()
@pytest.mark.parametrize("online", [False, True], ids=["folded", "everywhere"])
def test_smoothing_leaves_the_float_output_as_it_is(family: Family, online: bool) -> None:
    _, networks = family.load()
    stores = family.float_calls
    generator = torch.Generator().manual_seed(0)
    for network in networks:
        for group in network.groups:
            if group.fold or online:
                group.transform(Scale(torch.rand(group.linears[0].in_features, generator=generator) * 3 + 0.2))
        with in_mode(network.layers.values(), "transformed"):
            errors = teacher_forced_errors(network.part, stores[network.part.name], CPU)
        assert max(e for steps in errors.values() for step in steps.values() for e in step) < 1e-10


@torch.no_grad()
def test_smoothing_that_files_hold_leaves_the_network_as_it_is(family: Family) -> None:
    """In rows of the linear before, in an affine norm, or in what modulates it; a fresh network reads the file."""
    _, networks = family.load()
    stores = family.float_calls
    parts = {part.name: part for part in family.adapter.parts(family.pipeline())}
    generator = torch.Generator().manual_seed(0)
    if not any(is_held_by_files(network, group) for network in networks for group in network.groups):
        pytest.skip("nothing of it can absorb a scale")
    for network in networks:
        state = network.part.module.state_dict()
        for group in network.groups:
            if is_held_by_files(network, group):
                group.transform(Scale(torch.rand(group.linears[0].in_features, generator=generator) * 3 + 0.2))
        finished = FinishedPart(network.part.name, network.part.module, network.layers, {}, family.source, {}, {})
        tensors = folded_tensors(finished)
        for name, layer in network.layers.items():
            tensors |= transformed_tensors(name, layer)
        fresh = parts[network.part.name]
        assert any(not torch.equal(tensors[name].make(), state[name]) for name in state)
        fresh.module.load_state_dict({name: tensor.make() for name, tensor in tensors.items()})
        errors = teacher_forced_errors(fresh, stores[network.part.name], CPU)
        assert max(e for steps in errors.values() for step in steps.values() for e in step) < 1e-10


def is_held_by_files(network: Network, group: Group) -> bool:
    """Whether a scale of the group's input can go into rows of a linear, or into a norm that has a weight."""
    state = network.part.module.state_dict()
    return any(isinstance(fold, ModulatedRows | ProducerRows) or f"{fold}.weight" in state for fold, _ in group.fold)


@pytest.mark.parametrize("guided", [False, True], ids=["one branch", "guided"])
def test_recorded_calls_say_their_step_and_branch(family: Family, guided: bool) -> None:
    pipeline, networks = family.load()
    index, sample, sampling = family.planned[0]
    stores = family.float_calls
    if not guided:
        sampling = sampling.model_copy(update={"guidance_scale": 1.0})
        stores = {network.part.name: CallStore() for network in networks}
        parts = [network.part for network in networks]
        record_calls(LoadedModel(family.adapter, pipeline), parts, [(index, sample, sampling)], stores)
    found = {name: [(call.step, call.branch) for call in store.headers()] for name, store in stores.items()}
    assert {name: len(calls) for name, calls in found.items()} == family.adapter.call_counts(pipeline, sampling)
    branches = family.adapter.branches_of(sampling)
    assert sorted(call for calls in found.values() for call in calls) == sorted(
        (step, branch) for step in range(sampling.steps) for branch in branches
    )


@torch.no_grad()
def test_a_recording_that_is_left_early_has_every_call_and_every_row(family: Family) -> None:
    pipeline, networks = family.load()
    parts = [network.part for network in networks]
    groups = {network.part.name: network.groups for network in networks}
    stores = {part.name: CallStore() for part in parts}
    watched = [group for some in groups.values() for group in some]
    observation = Observation(watched, EVERY_ROW, 1, 10**9)
    index, _, how = family.planned[0]
    counts = family.adapter.call_counts(pipeline, how)
    until = until_seen(parts, ChosenCalls({part: {index: range(count)} for part, count in counts.items()}), groups)
    with observation.watching():
        videos = record_calls(
            LoadedModel(family.adapter, pipeline), parts, family.planned[:1], stores, watch=Watch(until=until)
        )
    observation.attach()
    assert videos == []
    assert {name: store.headers() for name, store in stores.items()} == {
        name: store.headers() for name, store in family.float_calls.items()
    }
    rows = [group.stats["rows"] for group in watched]
    assert all(torch.equal(one, other) for one, other in zip(rows, family.float_run.rows, strict=True))


def test_generating_twice_gives_the_same_video(family: Family) -> None:
    pipeline, networks = family.load()
    parts = [network.part for network in networks]
    one, (two,) = (
        family.float_run.video,
        record_calls(LoadedModel(family.adapter, pipeline), parts, family.planned[:1], {}),
    )
    assert torch.equal(one.frames, two.frames) and torch.equal(one.latents, two.latents)
    assert one.frames.dtype == torch.uint8 and one.frames.shape[-1] == 3
    assert relative_error(one.latents, two.latents) == 0


def test_names_translate_to_every_target_and_back(family: Family) -> None:
    _, networks = family.load()
    for table in family.adapter.renames.values():
        for network in networks:
            names = list(network.part.module.state_dict())
            there = Renamer(table).forward_all(names)
            assert len(set(there.values())) == len(names)
            back = Renamer(table).backward_all(there.values())
            assert {new: old for old, new in there.items()} == back


def test_the_original_layout_is_a_bijection(family: Family) -> None:
    _, networks = family.load()
    for network in networks:
        state = {name: Known(tensor) for name, tensor in network.part.module.state_dict().items()}
        table = family.adapter.original(network.part.module)
        if not table:
            pytest.skip("its original layout is not known")
        there = Names(table).to_original(state)
        back = Names(table).to_ours(there)
        assert back.keys() == state.keys() and len(there) <= len(state)
        assert all(torch.equal(back[name].make(), tensor.make()) for name, tensor in state.items())


def test_the_skeleton_has_the_layers_of_the_model_and_no_weights(family: Family) -> None:
    parts = family.adapter.parts(family.pipeline())
    for skeleton, part in zip(family.adapter.skeleton(family.source), parts, strict=True):
        assert all(parameter.is_meta for parameter in skeleton.module.parameters())
        assert [name for name, _ in skeleton.module.named_parameters()] == [
            n for n, _ in part.module.named_parameters()
        ]
        assert [(n, skeleton.groups(b)) for n, b in skeleton.blocks] == [(n, part.groups(b)) for n, b in part.blocks]
