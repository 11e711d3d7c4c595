"""Every format rounds on a device as it does on the CPU, to the bit."""

from __future__ import annotations

import pytest
import torch

from llmc.numerics.formats.base import Format
from llmc.numerics.quantize import fake_quantize, quantize
from llmc.numerics.spec import TensorSpec
from llmc.plugin import discover

FORMATS = discover("llmc.numerics.formats", Format)
EDGES = torch.tensor([0.0, -0.0, 448.0, 464.0, 1e30, -1e30, 2.0**-9, 2.0**-10])


def specs(format: type[Format]) -> list[TensorSpec]:
    """With a scale for each token, for all of them and for groups, and with a zero point; or as the format has it."""
    name = format.model_fields["name"].default
    if format.group_size is not None:
        return [TensorSpec(format=name)]
    if format.steps_every is not None:
        return [TensorSpec(format=name, granularity="per_channel")]
    plain = [TensorSpec(format=name, granularity=kind) for kind in ("per_token", "per_tensor")]
    plain.append(TensorSpec(format=name, granularity="per_group", group_size=32))
    return plain + [spec.model_copy(update={"symmetric": False}) for spec in plain if format.integer]


@pytest.mark.parametrize("rounding", ["nearest_even", "half_away"])
@pytest.mark.parametrize("format", FORMATS.values(), ids=FORMATS)
def test_a_format_gives_the_values_of_the_cpu(format: type[Format], rounding: str, device: torch.device) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.cat([torch.randn(16, 512, generator=generator) * 10.0**power for power in (-30, -8, -2, 0, 4)])
    rows[0, : len(EDGES)] = EDGES
    for spec in specs(format):
        spec = spec.model_copy(update={"rounding": rounding})
        for x in (rows, rows.bfloat16()):
            wanted, found = fake_quantize(x, spec), fake_quantize(x.to(device), spec)
            assert found.device.type == device.type and torch.equal(found.cpu(), wanted), spec
            stored, codes = quantize(x, spec).stored(), quantize(x.to(device), spec).stored()
            assert torch.equal(codes.cpu().view(torch.uint8), stored.view(torch.uint8)), spec
