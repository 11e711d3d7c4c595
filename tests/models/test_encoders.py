"""Every encoder class: its layout is true, its blocks stream, padding is left out, what pipelines read is judged."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from llmc.calib.observation import Observation
from llmc.calib.running import at_call
from llmc.calib.store import Call, CallStore
from llmc.calib.stream import BlockStream, Observing
from llmc.calib.teacher import first_tensor, relative_error, teacher_forced_errors
from llmc.engine.network import Network, prepare
from llmc.errors import AdapterError
from llmc.layers.linear import in_mode
from llmc.layers.transforms import Scale
from llmc.models.encoders import READS, encoder_parts
from llmc.models.parts import Part
from llmc.numerics.spec import Granularity, LayerSpec, TensorSpec
from llmc.policy.rules import Policy
from tests.models.tiny_encoders import ENCODERS, REAL, TOKENS, tiny_encoder

CPU = torch.device("cpu")
ROWS = frozenset({"rows"})
W8A8 = LayerSpec(
    weight=TensorSpec(format="int8", granularity="per_channel"), act=TensorSpec(format="int8", granularity="per_token")
)


@pytest.fixture(params=list(ENCODERS))
def encoder(request: pytest.FixtureRequest) -> tuple[Network, dict[str, Any]]:
    part, call = tiny_encoder(request.param)
    return prepare(part, Policy(W8A8), ()), call


def recorded(part: Part, args: tuple[Any, ...], kwargs: dict[str, Any]) -> CallStore:
    """The call with its output, as a recording keeps it."""
    store = CallStore()
    with torch.no_grad():
        output = part.module(*args, **kwargs)
    args, kwargs, output = part.kept(args, kwargs, output)
    store.add(Call(0, 0, None, "cond", args, kwargs, output))
    return store


def worst(network: Network, store: CallStore) -> float:
    return teacher_forced_errors(network.part, store, CPU)[0][0][0]


def test_every_class_that_is_known_is_tried() -> None:
    assert {name.partition(",")[0] for name in ENCODERS} | {"CLIPVisionModelWithProjection"} == READS.keys()


def test_every_linear_of_a_block_is_in_one_group_and_nothing_else_is(encoder: tuple[Network, dict[str, Any]]) -> None:
    part = encoder[0].part
    linears = [f"{name}.{linear}" for name, block in part.blocks for group in part.groups(block)
               for linear in group.linears]  # fmt: skip
    assert sorted(linears) == sorted(encoder[0].layers) and len(set(linears)) == len(linears)
    left = [name for name, module in part.module.named_modules() if isinstance(module, torch.nn.Linear)]
    assert [name for name in left if name != "text_projection"] == []


@torch.no_grad()
def test_linears_of_a_group_truly_read_the_same_tensor(encoder: tuple[Network, dict[str, Any]]) -> None:
    network, call = encoder
    read: dict[Any, torch.Tensor] = {}
    for layer in network.layers.values():
        layer.register_forward_pre_hook(lambda module, args: read.__setitem__(module, args[0]))
    network.part.module(**call)
    for group in network.groups:
        assert len({id(read[layer]) for layer in group.linears}) == 1, group.names


@torch.no_grad()
def test_streamed_blocks_equal_the_full_forward_bit_for_bit(encoder: tuple[Network, dict[str, Any]]) -> None:
    network, call = encoder
    store = CallStore()
    store.add(Call(0, 0, None, "cond", (), call))
    full = Observation(network.groups, ROWS, 1, 10**9)
    with full.watching(), at_call(store.headers()[0]):
        network.part.module(**call)
    full.attach()
    wanted = {group.name: group.stats["rows"] for group in network.groups}
    steps = BlockStream(network.part, network.blocks, store, Observing(ROWS, 10**9))
    assert [step.name for step in steps] == [name for name, _ in network.part.blocks]
    for group in network.groups:
        assert torch.equal(group.stats["rows"], wanted[group.name]), group.name


@torch.no_grad()
@pytest.mark.parametrize("online", [False, True], ids=["folded", "everywhere"])
def test_smoothing_leaves_the_float_output_as_it_is(encoder: tuple[Network, dict[str, Any]], online: bool) -> None:
    network, call = encoder
    store = recorded(network.part, (), call)
    generator = torch.Generator().manual_seed(0)
    for group in network.groups:
        if group.fold or online:
            group.transform(Scale(torch.rand(group.linears[0].in_features, generator=generator) * 3 + 0.2))
    with in_mode(network.layers.values(), "transformed"):
        assert worst(network, store) < 1e-10


@torch.no_grad()
@pytest.mark.parametrize("act", ["per_token", None], ids=["dynamic", "weights"])
@pytest.mark.parametrize(("grid", "most"), [("int8", 0.0025), ("fp8_e4m3", 0.01)])
@pytest.mark.parametrize("name", ENCODERS)
def test_rounding_changes_what_the_pipeline_reads_a_little(
    name: str, grid: str, most: float, act: Granularity | None
) -> None:
    part, call = tiny_encoder(name)
    spec = LayerSpec(
        weight=TensorSpec(format=grid, granularity="per_channel"),
        act=act and TensorSpec(format=grid, granularity=act),
    )
    network = prepare(part, Policy(spec), ())
    store = recorded(network.part, (), call)
    for layer in network.layers.values():
        layer.round()
    assert worst(network, store) < 1e-12  # the calls without padding give the same
    with in_mode(network.layers.values(), "quantized"):
        assert 1e-8 < worst(network, store) < most


@torch.no_grad()
@pytest.mark.parametrize("positional", [False, True])
@pytest.mark.parametrize("name", ["UMT5EncoderModel", "T5EncoderModel", "MT5EncoderModel", "LlamaModel"])
def test_padding_that_is_masked_is_left_out(name: str, positional: bool) -> None:
    part, call = tiny_encoder(name)
    args, kwargs = ((call.pop("input_ids"), call.pop("attention_mask")), call) if positional else ((), call)
    returned = part.module(*args, **kwargs)
    whole = part.read(returned)
    args, kwargs, output = part.kept(args, kwargs, returned)
    ids, mask = args if positional else (kwargs["input_ids"], kwargs["attention_mask"])
    assert ids.shape == mask.shape == (2, REAL) and whole.shape[:2] == (2, TOKENS)
    assert torch.equal(output, whole[:, :REAL])
    again = part.read(part.module(*args, **kwargs))
    assert relative_error(again[mask.bool()], output[mask.bool()]) < 1e-11


def test_padding_on_the_left_or_without_a_mask_stays() -> None:
    part, call = tiny_encoder("T5EncoderModel")
    turned = {name: value.flip(1) for name, value in call.items()}
    _, kept, _ = part.kept((), turned, part.module(**turned))
    assert kept is turned
    clip, call = tiny_encoder("CLIPTextModel")
    _, kept, output = clip.kept((), call, clip.module(**call))
    assert kept is call and output.shape == (2, 32)  # the pooled token, which FLUX and HunyuanVideo read


def test_what_a_pipeline_reads_of_hidden_states_is_what_is_judged() -> None:
    part, call = tiny_encoder("CLIPVisionModel")
    output = part.module(**call)
    assert torch.equal(part.read(output), output.hidden_states[-2])
    del call["output_hidden_states"]
    assert torch.equal(part.read(part.module(**call)), first_tensor(part.module(**call)))


def test_only_encoders_of_the_sections_asked_for_are_taken_and_unknown_ones_are_refused() -> None:
    text, image = tiny_encoder("UMT5EncoderModel")[0].module, tiny_encoder("CLIPVisionModel")[0].module
    pipeline = SimpleNamespace(text_encoder=text, text_encoder_2=None, image_encoder=image)
    names = ("text_encoder", "text_encoder_2", "text_encoder_3", "image_encoder")
    assert [part.name for part in encoder_parts(pipeline, names, ["video_gen", "text_encoder"])] == ["text_encoder"]
    assert [part.section for part in encoder_parts(pipeline, names, ["image_encoder"])] == ["image_encoder"]
    pipeline.image_encoder = torch.nn.Linear(2, 2)
    with pytest.raises(AdapterError, match="is a Linear, whose layout is not known"):
        encoder_parts(pipeline, names, ["image_encoder"])
