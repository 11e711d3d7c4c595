"""Every grid that the dialect knows is one of ours, or is refused with what is legal."""

import pytest
from pydantic import ValidationError

from llmc.compat.modelslim.grids import ABSENT, LEGAL, Side, grid_of, problem_of, rounding_of
from llmc.compat.modelslim.schema import QConfig
from llmc.config.quant import ActConfig, NetworkConfig, WeightConfig

EVERY = [
    (side, QConfig(dtype=dtype, scope=scope, symmetric=symmetric, method=method))
    for side, schemes in LEGAL.items() for (dtype, scope, symmetric), methods in schemes.items() for method in methods
]  # fmt: skip


@pytest.mark.parametrize(("side", "qconfig"), EVERY, ids=lambda value: str(value).replace(" ", "-"))
def test_a_legal_grid_is_one_of_ours_or_is_refused_with_a_reason(side: Side, qconfig: QConfig) -> None:
    problem = problem_of(qconfig, side)
    if problem is not None:
        key, text = problem
        assert getattr(qconfig, key) in ABSENT and "write " in text
        return
    grid = grid_of(qconfig, side)
    if side == "act" and grid is not None:
        ActConfig.model_validate(grid)
    if side == "weight":
        NetworkConfig.model_validate({"method": [rounding_of(qconfig)], "weight": grid})
        spec = WeightConfig.model_validate(grid).spec()
        assert (spec.symmetric, spec.format.name.removeprefix("fp8_")) == (
            qconfig.symmetric, {"dual_scale": "mxfp4dual"}.get(qconfig.scope, qconfig.dtype).removeprefix("fp8_")
        )  # fmt: skip


@pytest.mark.parametrize(
    ("side", "changes", "key", "said"),
    [
        ("act", {"scope": "per_token", "method": "histogram"}, "method", "found by minmax"),
        ("act", {"scope": "per_group"}, "scope", "int8 per_token symmetric"),
        ("weight", {"scope": "per_tensor"}, "scope", "int8 per_channel symmetric"),
        ("weight", {"scope": "per_channel", "symmetric": False}, "method", "found by gptq"),
        ("act", {"scope": "per_tensor", "ext": {"aggregation_type": "mean"}}, "ext", "aggregation_type: max"),
    ],
)
def test_an_illegal_pair_is_refused_with_what_is_legal(
    side: Side, changes: dict[str, object], key: str, said: str
) -> None:
    values = {"dtype": "int8", "scope": "per_token", "symmetric": True, "method": "minmax", **changes}
    problem = problem_of(QConfig.model_validate(values), side)
    assert problem is not None and problem[0] == key and said in problem[1]


def test_groups_have_the_size_that_is_said() -> None:
    values = {"dtype": "int4", "scope": "per_group", "symmetric": True, "method": "gptq"}
    qconfig = QConfig.model_validate({**values, "ext": {"group_size": 64, "percdamp": 0.05}})
    assert problem_of(qconfig, "weight") is None
    assert grid_of(qconfig, "weight") == {"bit": 4, "symmetric": True, "granularity": "per_group", "group_size": 64}
    assert rounding_of(qconfig) == {"name": "GPTQ", "damping": 0.05}


def test_numbers_that_are_not_known_are_refused() -> None:
    with pytest.raises(ValidationError):
        QConfig.model_validate({"dtype": "int3", "scope": "per_token", "symmetric": True, "method": "minmax"})
