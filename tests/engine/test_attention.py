"""Attentions of tiny networks: calibrated head by head, rotated, judged, and left float where they lose too much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from llmc.algorithms.smoothquant import SmoothQuant
from llmc.calib.attention import attention_errors, calibrated_scales
from llmc.calib.record import record_calls
from llmc.calib.store import Call, CallStore
from llmc.calib.teacher import first_tensor, relative_error
from llmc.checks.attentions import check_attentions
from llmc.engine.attention import calibrate_attentions, plainly_rounded
from llmc.engine.calibrate import CalibrationPlan
from llmc.engine.calibrate import calibrate as calibrate_all
from llmc.engine.network import Network, prepare
from llmc.errors import AdapterError, CalibrationError, ConfigError, UnsupportedSpec
from llmc.layers.attention import AttentionCall, QuantAttention, watched
from llmc.layers.linear import in_mode
from llmc.models.loaded import LoadedModel
from llmc.numerics.attention_spec import AttentionSpec
from llmc.numerics.spec import LayerSpec
from llmc.policy.attention import AttentionPolicy, AttentionRule
from llmc.policy.rules import Policy
from tests.contracts.conftest import W8A8, Family, make_family

__all__ = ["make_family"]  # the fixture

INT8 = AttentionSpec(qk="int8", v="int8")
STATIC = AttentionSpec(qk="int8", v="int8", dynamic=False)
CPU = torch.device("cpu")
Attending = Callable[..., tuple[Network, CallStore]]


@pytest.fixture(scope="module")
def recorded(make_family: Callable[[str], Family]) -> Callable[[str], tuple[Family, CallStore]]:
    found: dict[str, tuple[Family, CallStore]] = {}

    def record(name: str) -> tuple[Family, CallStore]:
        if name not in found:
            family = make_family(name)
            pipeline = family.adapter.load(family.source, "auto", "cpu")
            part, store = family.adapter.parts(pipeline)[0], CallStore()
            record_calls(LoadedModel(family.adapter, pipeline), [part], family.planned[:1], {part.name: store})
            found[name] = family, store
        return found[name]

    return record


@pytest.fixture
def attending(recorded: Callable[[str], tuple[Family, CallStore]]) -> Attending:
    def make(name: str, spec: AttentionSpec = INT8, **changes: Any) -> tuple[Network, CallStore]:
        family, store = recorded(name)
        part = family.adapter.parts(family.adapter.load(family.source, "auto", "cpu"))[0]
        return prepare(part, Policy(LayerSpec()), (), attention=AttentionPolicy(spec, **changes)), store

    return make


@torch.no_grad()
def run(network: Network, call: Call) -> Tensor:
    return first_tensor(network.part.module(*call.args, **call.kwargs))


def first(store: CallStore) -> Call:
    return next(iter(store.calls("cpu")))


def calibrate(network: Network, store: CallStore, max_error: float | None = None) -> dict[str, float]:
    return calibrate_attentions(network.part, network.attentions, store, max_error)


def just(call: Call) -> CallStore:
    store = CallStore()
    store.add(call)
    return store


class SwappedLayout(TorchFunctionMode):
    """Queries as (batch, tokens, heads, width), as some kernels take them."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is scaled_dot_product_attention:
            kwargs = {**kwargs, "query": kwargs["query"].transpose(1, 2)}
        return func(*args, **(kwargs or {}))


class Causal(TorchFunctionMode):
    """No query sees a later key, said by name or by position."""

    def __init__(self, by_position: bool) -> None:
        super().__init__()
        self.by_position = by_position

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is scaled_dot_product_attention:
            qkv = [*args, *(kwargs[name] for name in ("query", "key", "value") if name in kwargs)]
            return func(*qkv, None, 0.0, True) if self.by_position else func(*qkv, is_causal=True)
        return func(*args, **(kwargs or {}))


def test_scales_of_hunyuan_have_one_entry_for_each_head(attending: Attending) -> None:
    network, store = attending("HunyuanVideo", STATIC)
    values: dict[str, list[Tensor]] = {name: [] for name in network.attentions}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, args, output: values[name].append(output)

    block = network.part.blocks[0][0]
    attention = network.attentions[f"{block}.attn"]
    image = network.part.module.get_submodule(f"{block}.attn.to_v")
    text = network.part.module.get_submodule(f"{block}.attn.add_v_proj")
    image.register_forward_hook(keep(f"{block}.attn"))
    padded: list[Tensor] = []
    text.register_forward_hook(lambda module, args, output: padded.append(output))
    calibrate(network, store)
    for each in network.attentions.values():
        assert each.state.scales is not None and [scale.shape for scale in each.state.scales] == [(4,)] * 3
    # the values' scale reaches all of them: told here from the projections, where heads lie side by side in a token
    length = int(first(store).kwargs["encoder_attention_mask"].sum())
    assert 0 < length < padded[0].shape[1]
    tokens = torch.cat([*values[f"{block}.attn"][:2], *(x[:, :length] for x in padded[:2])], 1)
    absmax = tokens.unflatten(-1, (4, 16)).abs().amax((0, 1, 3))
    assert attention.state.scales is not None
    torch.testing.assert_close(attention.state.scales[2], absmax / 127)


def test_another_layout_of_queries_is_refused(attending: Attending) -> None:
    network, store = attending("HunyuanVideo", INT8)
    module = network.part.blocks[0][1].get_submodule("attn")
    processor = module.processor

    def swapped(*args: Any, **kwargs: Any) -> Any:
        with SwappedLayout():
            return processor(*args, **kwargs)

    swapped.__call__ = processor.__call__  # type: ignore[attr-defined]
    module.processor = swapped  # type: ignore[assignment]
    with in_mode(network.switched, "quantized"), pytest.raises(AdapterError, match=r"4 heads.*shape \(1, 32, 4, 16\)"):
        run(network, first(store))


def test_what_torch_takes_by_position_is_taken_by_position(attending: Attending) -> None:
    network, store = attending("WanT2V", INT8)
    call, outputs = first(store), []
    processors = {module: module.processor for module in network.part.module.modules() if hasattr(module, "processor")}

    def causal(processor: Any, by_position: bool) -> Callable[..., Any]:
        def attend(*args: Any, **kwargs: Any) -> Any:
            with Causal(by_position):
                return processor(*args, **kwargs)

        attend.__call__ = processor.__call__  # type: ignore[attr-defined]
        return attend

    with in_mode(network.switched, "quantized"):
        plain = run(network, call)
        for by_position in (False, True):
            for module, processor in processors.items():
                module.processor = causal(processor, by_position)  # type: ignore[assignment]
            outputs.append(run(network, call))
    assert outputs[0].equal(outputs[1]) and not outputs[0].equal(plain)


def test_padding_sets_no_scale(attending: Attending) -> None:
    network, store = attending("HunyuanVideo", STATIC)
    call = first(store)
    text = call.kwargs["encoder_hidden_states"].clone()
    text[:, int(call.kwargs["encoder_attention_mask"].sum()) :] *= 1000
    louder = replace(call, kwargs={**call.kwargs, "encoder_hidden_states": text})
    with in_mode(network.switched, "quantized"):  # not calibrated yet: scales are measured
        torch.testing.assert_close(run(network, louder), run(network, call), rtol=1e-4, atol=1e-5)
    scales = []
    for each in (call, louder):
        found = calibrated_scales(network.part, network.attentions, just(each), CPU)
        scales += [torch.stack([torch.stack(heads) for heads in found.values()])]
    torch.testing.assert_close(*scales, rtol=1e-4, atol=0)


@pytest.mark.parametrize("family", ["WanI2V", "HunyuanVideo", "OpenSoraPlan"])
def test_a_rotation_changes_nothing_in_float(attending: Attending, family: str) -> None:
    network, store = attending(family, AttentionSpec(qk="int8", v="int8", rotate=True))
    rotation = next(iter(network.attentions.values())).state.rotation
    assert rotation is not None and not torch.equal(rotation, torch.eye(len(rotation)))
    wanted = run(network, first(store))
    with in_mode(network.switched, "transformed"):
        assert relative_error(run(network, first(store)), wanted) < 1e-10  # a power: 1e-5 of the output


def test_static_scales_over_one_call_are_the_measured_ones(attending: Attending) -> None:
    network, store = attending("WanT2V", STATIC.model_copy(update={"recall": 1.0}))
    one = just(first(store))
    with in_mode(network.switched, "quantized"):
        measured = run(network, first(one))
    calibrate(network, one)
    assert all(attention.state.scales is not None for attention in network.attentions.values())
    with in_mode(network.switched, "quantized"):
        assert relative_error(run(network, first(one)), measured) < 1e-5
    with plainly_rounded(network.attentions), in_mode(network.switched, "quantized"):
        assert torch.equal(run(network, first(one)), measured)


def test_static_scales_hold_for_every_call(attending: Attending) -> None:
    network, store = attending("WanI2V", STATIC.model_copy(update={"recall": 1.0}))
    calibrate(network, store)
    whole = {name: attention.state.scales for name, attention in network.attentions.items()}
    for call in store.calls("cpu"):
        for name, scales in calibrated_scales(network.part, network.attentions, just(call), CPU).items():
            pairs = zip(scales, whole[name] or (), strict=True)
            assert all((one <= all_of_them).all() for one, all_of_them in pairs)


@pytest.mark.parametrize("name", ["int8", "fp8_e4m3"])
def test_errors_are_small_and_the_worst_can_stay_float(attending: Attending, name: str) -> None:
    network, store = attending("WanI2V", AttentionSpec(qk=name, v=name))
    errors = calibrate(network, store)
    assert set(errors) == set(network.attentions) and all(0 < error < 1e-2 for error in errors.values())
    limit = sorted(errors.values())[1]
    assert calibrate(network, store, max_error=limit) == errors
    left = {name for name, attention in network.attentions.items() if attention.state.stays_float}
    assert left == {name for name, error in errors.items() if error > limit} and left
    network, store = attending("WanI2V", AttentionSpec(qk=name, v=name))
    wanted = run(network, first(store))
    calibrate(network, store, max_error=1e-12)
    with in_mode(network.switched, "quantized"):
        assert torch.equal(run(network, first(store)), wanted)


@pytest.mark.parametrize(("spec", "place"), [(STATIC, "q of {}"), (INT8, "what {} gives")], ids=["static", "dynamic"])
def test_an_attention_of_no_numbers_is_refused_with_its_call(
    attending: Attending, spec: AttentionSpec, place: str
) -> None:
    network, store = attending("WanT2V", spec)
    spoilt, latents = CallStore(), torch.full_like(first(store).kwargs["hidden_states"], torch.nan)
    for number, call in enumerate(store.calls("cpu")):
        spoilt.add(replace(call, kwargs=call.kwargs | ({"hidden_states": latents} if number == 1 else {})))
    found = place.format(r"transformer\.blocks\.0\.attn1")
    with pytest.raises(
        CalibrationError, match=rf"{found} holds NaN or infinity, at first in call 1 \(sample 0, step 0"
    ):
        calibrate(network, spoilt)


def test_the_error_is_that_of_the_attention_alone(attending: Attending) -> None:
    network, store = attending("WanT2V")
    before = run(network, first(store))
    name = "blocks.0.attn1"
    seen: list[tuple[Tensor, Tensor]] = []

    def keep(call: Any) -> None:
        seen.append((network.attentions[name].quantized(call).output(), call.output()))

    network.attentions[name].watch = keep
    for call in store.calls("cpu"):
        run(network, call)
    network.attentions[name].watch = None
    together = [torch.cat([pair[side] for pair in seen]) for side in (0, 1)]
    found = attention_errors(network.part, network.attentions, store, CPU)
    assert found[name] == pytest.approx(relative_error(*together), rel=1e-4)
    assert torch.equal(run(network, first(store)), before)


def test_globs_choose_and_one_that_matches_nothing_is_refused(attending: Attending) -> None:
    network, _ = attending("WanI2V", include=("*.attn1",), exclude=("blocks.1.*",))
    assert list(network.attentions) == ["blocks.0.attn1"]
    network, _ = attending("WanI2V", ignored_blocks=frozenset({0}))
    assert list(network.attentions) == ["blocks.1.attn1", "blocks.1.attn2"]
    with pytest.raises(ConfigError, match=r"'\*attn3' matches no attention[^$]*named like blocks"):
        check_attentions([network.part], AttentionPolicy(INT8, include=("*attn3",)), ())


def test_rules_give_an_attention_another_grid_or_none(attending: Attending) -> None:
    fp8 = AttentionSpec(qk="fp8_e4m3", v="fp8_e4m3", rotate=True)
    rules = AttentionRule("blocks.1.attn2", None), AttentionRule("*.attn2", fp8), AttentionRule("*.0.attn2", None)
    network, store = attending("WanI2V", rules=rules)
    assert {name: attention.spec for name, attention in network.attentions.items()} == {
        "blocks.0.attn1": INT8, "blocks.0.attn2": fp8, "blocks.1.attn1": INT8
    }  # fmt: skip
    rotated = [name for name, attention in network.attentions.items() if attention.state.rotation is not None]
    assert rotated == ["blocks.0.attn2"]
    assert all(0 < error < 1e-2 for error in calibrate(network, store).values())
    with pytest.raises(ConfigError, match=r"'\*attn3' matches no attention"):
        check_attentions([network.part], AttentionPolicy(INT8, rules=(AttentionRule("*attn3", None),)), ())


def test_heads_that_groups_do_not_divide_are_refused(attending: Attending) -> None:
    network, _ = attending("WanI2V")
    with pytest.raises(UnsupportedSpec, match=r"mxfp8.*32 neighbours.*16 values of a head of blocks.0.attn1"):
        check_attentions([network.part], AttentionPolicy(AttentionSpec(qk="mxfp8", v="mxfp8")), ())


def test_a_module_that_does_not_call_torch_is_refused(attending: Attending) -> None:
    network, store = attending("WanT2V")
    module = network.part.blocks[0][1].get_submodule("attn1")
    assert isinstance(module, nn.Module)
    module.processor = lambda attn, x, *rest: x  # type: ignore[assignment]
    with in_mode(network.switched, "quantized"), pytest.raises(AdapterError, match="never called torch's"):
        run(network, first(store))


def test_scales_are_of_values_as_smoothing_leaves_them(make_family: Callable[[str], Family]) -> None:
    family = make_family("WanI2V")
    pipeline = family.adapter.load(family.source, "auto", "cpu")
    spec = STATIC.model_copy(update={"recall": 1.0})
    recipe = (SmoothQuant(alpha=0.5, gate=False),)
    part = family.adapter.parts(pipeline)[0]
    network = prepare(part, Policy(W8A8), (), recipe, attention=AttentionPolicy(spec))
    for name, layer in network.layers.items():
        if name.endswith("to_out.0"):
            layer.weight.data[:, ::16] *= 100  # one column of each head, so that its values are scaled up before
    calibrate_all(LoadedModel(family.adapter, pipeline), [network], CalibrationPlan(family.planned[:1], max_rows=256))
    assert all(network.layers[f"{name}.to_v"].state.out_transforms for name in network.attentions)
    reached: dict[str, float] = {}  # of an attention's two calls, to text and to the image, the larger has the range

    def check(attention: QuantAttention, call: AttentionCall) -> None:
        assert attention.state.scales is not None
        now = call.v.abs().amax((0, 2, 3)) / (attention.state.scales[2] * 127)
        reached[attention.name] = max(reached.get(attention.name, 0), float(now.max()))

    with in_mode(network.layers.values(), "quantized"), watched(network.attentions.values(), check):
        family.adapter.generate(pipeline, family.planned[0][1], family.planned[0][2])
    assert set(reached) == set(network.attentions)
    assert all(0.9 < share < 1.05 for share in reached.values())
