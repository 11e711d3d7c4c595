"""What every method promises: each alone and in every order on one tiny real pipeline, a stack of them on every family.

What composes does not know the family, so that the whole product of methods and families would say nothing more.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import permutations
from pathlib import Path

import pytest
import torch

from llmc.algorithms.base import Algorithm, Smoothing
from llmc.calib.coverage import Coverage
from llmc.calib.held_out import keeps_apart
from llmc.calib.journal import Journal
from llmc.calib.layer_errors import layer_errors
from llmc.calib.observation import Observation
from llmc.calib.record import record_calls
from llmc.calib.serialization import Packer
from llmc.calib.teacher import teacher_forced_errors
from llmc.engine.calibrate import CalibrationPlan, calibrate
from llmc.engine.network import Network
from llmc.layers.linear import in_mode
from llmc.models.base import adapters
from llmc.models.loaded import LoadedModel
from llmc.numerics.spec import LayerSpec, TensorSpec
from llmc.plugin import discover
from tests.contracts.conftest import W8A8, Family
from tests.slices import FAMILIES, slow_if

METHODS = discover("llmc.algorithms", Algorithm)
SHORT: dict[str, dict[str, int]] = {"Tune": {"steps": 10, "calls": 2}}  # what is else learned for long
CPU = torch.device("cpu")
ONE = "WanI2V"

# a method that lives elsewhere has nobody else who tries it on the other families
ALONE = [
    (family, method) for method, found in METHODS.items()
    for family in ([ONE] if found.__module__.startswith("llmc.") else sorted(adapters()))
]  # fmt: skip

# observed all at once, and block by block on quantized inputs, in turn
STACKS = [("SmoothQuant", "Hadamard", "RTN"), ("SmoothQuant", "LowRank", "GPTQ")]
OTHERS = [*(name for name in sorted(FAMILIES) if name != ONE), *sorted(adapters().keys() - {*FAMILIES})]
ON_EVERY_FAMILY = [(name, STACKS[index % len(STACKS)]) for index, name in enumerate(OTHERS)]
# pairs by default, and of those that smooth one alone: what comes before or after a Scale does not see who made it;
# what no method rounded is rounded as RTN does, and a grid for each step is fixed where one for all steps is; what
# learns comes after all others
SMOOTHS_TOO = {name for name, method in METHODS.items() if issubclass(method, Smoothing)} - {"SmoothQuant"}
ALIKE = SMOOTHS_TOO | {"RTN", "Timestep", "Tune"}
ORDERS = [
    pytest.param(ONE, names, id=" ".join(names), marks=slow_if(len(names) > 2 or ALIKE & {*names}))
    for names in [*permutations(METHODS, 2), *permutations(METHODS, 3)]
    if all("rounded" not in METHODS[name]().leaves for name in names[:-1])
]


def method_of(name: str) -> Algorithm:
    """A method that does what it promises in little time."""
    return METHODS[name](**SHORT.get(name, {}))


def calibrated(
    family: Family, names: tuple[str, ...], streamed: bool = False, samples: int = 1, rows: int = 64
) -> list[Network]:
    """The family's networks after the methods."""
    pipeline, networks = family.load(recipe=[method_of(name) for name in names])
    calibrate(
        LoadedModel(family.adapter, pipeline),
        networks,
        CalibrationPlan(family.planned[:samples], rows, streamed=streamed),
    )
    return networks


@cache
def calibrated_alone(family: Family, method: str, streamed: bool) -> list[Network]:
    """After one method, on all samples; only to be read."""
    return calibrated(family, (method,), streamed, len(family.planned), 256)


def worst_errors(family: Family, networks: Sequence[Network]) -> dict[str, float]:
    """The largest error of any call of any part, with the methods' changes alone and with everything."""
    assert all(layer.state.rounded is not None for network in networks for layer in network.layers.values())
    found = dict.fromkeys(("transformed", "quantized"), 0.0)
    for network in networks:
        for mode in found:
            with in_mode(network.layers.values(), mode):  # type: ignore[arg-type]
                errors = teacher_forced_errors(network.part, family.float_calls[network.part.name], CPU)
            calls = [error for steps in errors.values() for step in steps.values() for error in step]
            found[mode] = max(found[mode], *calls)
    return found


@torch.no_grad()
@pytest.mark.parametrize("streamed", [False, True], ids=["at once", "streamed"])
@pytest.mark.parametrize(("family", "method"), ALONE, indirect=["family"])
def test_a_method_keeps_the_float_function_and_w8a8_stays_close(family: Family, method: str, streamed: bool) -> None:
    worst = worst_errors(family, calibrated_alone(family, method, streamed))
    assert worst["transformed"] < 1e-10
    assert 0 < worst["quantized"] < 0.0025


@torch.no_grad()
@pytest.mark.parametrize(("family", "method"), ALONE, indirect=["family"])
def test_no_layer_ends_worse_than_plain_rounding(family: Family, method: str) -> None:
    """On rows that the calibration kept; half of them were not seen by a search, hence the small allowance."""
    for network in calibrated_alone(family, method, False):
        errors = network.errors
        for group in network.groups:
            found = [errors[name] for name in group.names if name in errors and errors[name].recipe is not None]
            assert sum(e.recipe for e in found) <= 1.05 * sum(e.baseline for e in found), group.names


JUDGED = [name for name, method in METHODS.items() if keeps_apart(method().needs)]  # by what it has not seen
W4A8 = W8A8.model_copy(update={"weight": TensorSpec(format="int4", granularity="per_channel")})
MXFP4 = LayerSpec(weight=TensorSpec(format="mxfp4"), act=TensorSpec(format="mxfp4"))
STACKED = [(), ("SmoothQuant",), ("LowRank",)]
SEEN_TOO_LITTLE = [
    pytest.param(
        family, (*before, method), grid, id=f"{family} {' '.join([*before, method])} {said}",
        marks=slow_if(family != "HunyuanVideo" or before or said != "W4A8"),
    )
    for method in JUDGED for family in sorted(adapters()) for before in STACKED
    for said, grid in {"W8A8": W8A8, "W4A8": W4A8, "MXFP4": MXFP4}.items()
    if (family, said) != ("OpenSoraPlan", "MXFP4")  # whose layers of 48 inputs groups of 32 do not divide
]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize(("family", "names", "grid"), SEEN_TOO_LITTLE, indirect=["family"])
def test_after_one_sample_of_two_steps_no_layer_is_worse_than_plain_rounding_on_another(
    family: Family, names: tuple[str, ...], grid: LayerSpec
) -> None:
    pipeline, networks = family.load(spec=grid, recipe=[method_of(name) for name in names])
    index, sample, how = family.planned[1]
    groups = [group for network in networks for group in network.groups]
    others = Observation(groups, frozenset({"rows"}), calls=1, max_rows=10**6)
    with others.watching():
        other = (index, sample, how.model_copy(update={"seed": 77}))
        record_calls(LoadedModel(family.adapter, pipeline), [network.part for network in networks], [other], {})
    calibrate(LoadedModel(family.adapter, pipeline), networks, CalibrationPlan(family.planned[:1], 64))
    others.attach()
    for network in networks:
        for block in network.blocks:
            for name, error in layer_errors(block).items():
                assert error.recipe is not None and error.baseline is not None
                assert error.recipe <= 1.001 * error.baseline, name


@torch.no_grad()
@pytest.mark.parametrize(("family", "names"), ORDERS, indirect=["family"])
def test_methods_compose_in_every_order_that_is_allowed(family: Family, names: tuple[str, ...]) -> None:
    worst = worst_errors(family, calibrated(family, names))
    assert worst["transformed"] < 1e-9
    assert worst["quantized"] < 0.0025


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "names"),
    [
        pytest.param(family, names, id=f"{family}-", marks=slow_if(family not in FAMILIES))
        for family, names in ON_EVERY_FAMILY
    ],
    indirect=["family"],
)
def test_a_stack_of_methods_works_on_every_family(family: Family, names: tuple[str, ...]) -> None:
    worst = worst_errors(family, calibrated(family, names))
    assert worst["transformed"] < 1e-9
    assert 0 < worst["quantized"] < 0.0025


def assert_same(networks: Sequence[Network], others: Sequence[Network]) -> None:
    """All that is known of finished layers, bit for bit."""
    for network, other in zip(networks, others, strict=True):
        assert network.errors == other.errors
        assert [block.rejected for block in network.blocks] == [block.rejected for block in other.blocks]
        for name, layer in network.layers.items():
            one, two = Packer(), Packer()
            assert one.pack(layer.state) == two.pack(other.layers[name].state), name
            assert all(torch.equal(one.tensors[key].float(), two.tensors[key].float()) for key in one.tensors), name


# by default one for each kind of thing that a method leaves on a layer: a journal keeps it whoever made it
RESUMED = [(family, (method,), streamed) for family, method in ALONE for streamed in (False, True)]
RESUMED += [(family, stack, False) for family, stack in ON_EVERY_FAMILY]
RESUMED_BY_DEFAULT = [
    (ONE, ("SmoothQuant",), False), (ONE, ("GPTQ",), True), (ONE, ("Static",), False), (ONE, ("Timestep",), False),
    ("Wan2T2V", ("SmoothQuant", "LowRank", "GPTQ"), False), ("Wan2TI2V", ("SmoothQuant", "Hadamard", "RTN"), False),
]  # fmt: skip


@torch.no_grad()
@pytest.mark.parametrize(
    ("family", "names", "streamed"),
    [
        pytest.param(
            family,
            names,
            streamed,
            id=" ".join([family, *names, *["streamed"] * streamed]),
            marks=slow_if((family, names, streamed) not in RESUMED_BY_DEFAULT),
        )
        for family, names, streamed in RESUMED
    ],
    indirect=["family"],
)
def test_a_calibration_that_was_cut_off_goes_on_and_gives_the_same(
    family: Family, names: tuple[str, ...], streamed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = [method_of(name) for name in names]

    def resumed(journal: Journal | None) -> tuple[list[Network], Coverage]:
        pipeline, networks = family.load(recipe=recipe)
        return networks, calibrate(
            LoadedModel(family.adapter, pipeline),
            networks,
            CalibrationPlan(family.planned[:1], 64, streamed=streamed),
            journal,
        )

    def assert_same_again() -> None:
        found, again = resumed(Journal(tmp_path))
        assert_same(found, networks)
        assert again == coverage

    networks, coverage = resumed(None)
    assert_same_again()
    files = {file: file.stat().st_mtime_ns for file in tmp_path.glob("*blocks.*.safetensors")}
    assert len(files) == sum(len(network.blocks) for network in networks)
    last = tmp_path / f"{networks[-1].part.name}.{networks[-1].blocks[-1].name}.safetensors"
    last.unlink()
    assert_same_again()
    assert {file for file, time in files.items() if file.stat().st_mtime_ns != time} == {last}
    pipeline, _ = family.load()
    monkeypatch.setattr(type(pipeline), "__call__", None)  # nothing is left that would need it
    assert_same_again()
