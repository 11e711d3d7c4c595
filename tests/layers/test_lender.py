"""Weights that are there while their block works: which, for how long, and what is in their place meanwhile."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from llmc.errors import CalibrationError
from llmc.layers.lender import Lender
from llmc.layers.lent import Lent
from llmc.layers.linear import QuantLinear
from llmc.numerics.spec import LayerSpec, TensorSpec

INT8 = LayerSpec(weight=TensorSpec(format="int8", granularity="per_channel"))


@dataclass
class Counted:
    """A tensor that notes how often it was made."""

    values: Tensor
    count: int = 0

    @property
    def dtype(self) -> torch.dtype:
        return self.values.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    def make(self) -> Tensor:
        self.count += 1
        return self.values.clone()


def network() -> nn.Sequential:
    blocks = [nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Linear(8, 8)) for _ in range(3)]
    return nn.Sequential(nn.Linear(4, 8), *blocks)


def lent() -> tuple[nn.Sequential, nn.Sequential, dict[str, Counted]]:
    """A network, the same with lent weights, and what those come from."""
    torch.manual_seed(0)
    whole = network()
    sources = {name: Counted(tensor.detach()) for name, tensor in whole.named_parameters()}
    with torch.device("meta"):
        empty = network()
    Lender("part", empty, [*empty][1:], sources, torch.device("cpu"), at_once=1)
    return whole, empty, sources


def there(module: nn.Module) -> list[str]:
    return [name for name, parameter in module.named_parameters() if isinstance(parameter, Lent) and parameter.is_there]


def test_a_lent_network_gives_what_the_whole_one_gives_with_the_weights_of_one_block_there() -> None:
    whole, own, sources = lent()
    x = torch.rand(5, 4)
    for _ in range(2):
        assert torch.equal(own(x), whole(x))
        assert there(own) == ["3.0.weight", "3.2.weight"]
    assert {name: source.count for name, source in sources.items()} == {
        name: 2 if name[2:] in ("0.weight", "2.weight") else 1 for name in sources
    }


def test_what_is_not_there_has_shape_and_type_and_gives_no_number_to_who_forgets_to_ask() -> None:
    whole, own, _ = lent()
    for name, parameter in own.named_parameters():
        wanted = whole.get_parameter(name)
        assert (parameter.shape, parameter.dtype, parameter.device) == (wanted.shape, wanted.dtype, wanted.device)
    weight = own.get_parameter("1.0.weight")
    assert weight.untyped_storage().nbytes() == weight.itemsize and torch.isnan(weight + 0).all()


def test_a_state_dict_and_a_copy_hold_the_values_and_leave_the_loans_as_they_are() -> None:
    whole, own, _ = lent()
    own.get_submodule("2")(torch.rand(1, 8))
    for other in (own.state_dict(), copy.deepcopy(own).state_dict()):
        assert all(torch.equal(other[name], tensor) for name, tensor in whole.state_dict().items())
    assert there(own) == ["2.0.weight", "2.2.weight"]
    assert not any(isinstance(parameter, Lent) for parameter in copy.deepcopy(own).parameters())


def test_a_forward_that_is_left_in_the_middle_leaves_a_network_that_runs() -> None:
    whole, own, _ = lent()
    x = torch.rand(5, 4)

    def leave(*_: object) -> None:
        raise KeyboardInterrupt

    hook = own.get_submodule("2.1").register_forward_pre_hook(leave)
    with pytest.raises(KeyboardInterrupt):
        own(x)
    hook.remove()
    assert torch.equal(own(x), whole(x))


def test_a_quantized_layer_borrows_its_float_weight_and_computes_from_codes_without() -> None:
    whole, own, sources = lent()
    layers = {name: QuantLinear(own.get_submodule(name), INT8) for name in ("1.0", "2.0")}  # type: ignore[arg-type]
    for name, layer in layers.items():
        own.set_submodule(name, layer)
        assert torch.equal(layer.weight, whole.get_parameter(f"{name}.weight"))
        layer.round()
    made = {name: source.count for name, source in sources.items()}
    for layer in layers.values():
        layer.mode = "quantized"
        assert layer(torch.rand(2, 8)).isfinite().all()
        assert (layer.dtype, layer.device) == (torch.float32, torch.device("cpu"))
    assert {name: source.count for name, source in sources.items()} == made


def test_a_weight_that_holds_no_numbers_is_named_when_its_block_first_comes() -> None:
    _, own, sources = lent()
    sources["2.2.weight"].values[0, 0] = torch.inf
    own.get_submodule("1")(torch.rand(1, 8))
    with pytest.raises(CalibrationError, match=r"part\.2\.2\.weight holds NaN or infinity, in 1 of 64 values"):
        own.get_submodule("2")(torch.rand(1, 8))
