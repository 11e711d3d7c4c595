"""Writer and reader of a target know nothing of one another: here their tables are held against each other."""

from __future__ import annotations

import pytest

from llmc.export.lightx2v.schemes import SCHEMES
from llmc.export.mindie.types import TYPES as WRITTEN
from llmc.export.mindie.types import Runtime
from llmc.numerics.spec import LayerSpec, TensorSpec
from llmc.verify.lightx2v.storages import KERNELS, STORAGES, act_of
from llmc.verify.mindie.types import TYPES as READ
from llmc.verify.mindie.types import act_spec

# (type, version) -> what MindIE takes of inputs, and what is written: a grid of ours has one upper scale for 512 inputs
# where the format allows less in the last one, and packed codes are written in eights on both sides
NARROWER = {
    **{("W4A4_MXFP4_DUALSCALE", version): (64, 512) for version in (3, "2026-07")},
    **{("W4A4_DYNAMIC", version): (1, 8) for version in (3, "2026-07")},
}
# types without whose bias the newer version computes as well
NEEDS_LESS = {"W4A4_MXFP4": frozenset({"3"})}


def test_the_schemes_of_lightx2v_are_the_same() -> None:
    assert KERNELS.keys() == SCHEMES.keys()


@pytest.mark.parametrize("name", SCHEMES)
def test_a_scheme_of_lightx2v_is_read_as_it_is_written(name: str) -> None:
    scheme, kernel = SCHEMES[name], KERNELS[name]  # type: ignore[index]
    assert act_of(name) == scheme.computed(LayerSpec(weight=scheme.weight, act=scheme.act)).act
    outputs, inputs = kernel.multiples or STORAGES[kernel.storage].multiples
    assert (inputs, outputs) == scheme.multiples
    assert str(STORAGES[kernel.storage].scale_dtype) == f"torch.{scheme.scale_dtype}"


def test_the_types_of_mindie_are_the_same() -> None:
    assert READ.keys() == WRITTEN.keys()


@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("name", WRITTEN)
def test_a_type_of_mindie_is_read_as_it_is_written(name: str, dtype: str) -> None:
    written, read = WRITTEN[name], READ[name]  # type: ignore[index]
    for version in ("2.3", 3, "2026-07"):
        runtime = Runtime(version, "a2", dtype)  # type: ignore[arg-type]
        act = written.computed(LayerSpec(weight=written.weight, act=written.act), runtime).act
        found = act_spec(name, dtype == "fp16", str(version))
        assert _without_zero(found) == _without_zero(act)
        inputs, _ = written.multiples.get(version, (1, 1))  # type: ignore[call-overload]
        takes = (read.in_features or {}).get(str(version), 1)
        assert takes == inputs or NARROWER.get((name, version)) == (takes, inputs)
    assert read.smooths == written.multiplies and read.takes_bias == (written.bias != "lost")
    wanted = frozenset({"3", "2026-07"}) if written.bias == "needed" else frozenset()
    assert read.needs_bias == NEEDS_LESS.get(name, wanted)


def _without_zero(spec: TensorSpec | None) -> TensorSpec | None:
    """Whether a calibrated grid has a zero point is told by its tensors."""
    return spec if spec is None or spec.dynamic else spec.model_copy(update={"symmetric": True})
