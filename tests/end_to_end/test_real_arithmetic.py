"""The int8 and fp8 products of this device against their simulation, on the embedded model."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from llmc.algorithms.smoothquant import SmoothQuant
from llmc.calib.samples import read_samples
from llmc.engine.calibrate import CalibrationPlan, calibrate
from llmc.engine.network import Network, prepare
from llmc.errors import UnsupportedSpec
from llmc.eval.metrics.psnr import PSNR
from llmc.judging.positions import in_position
from llmc.models.loaded import LoadedModel
from llmc.models.samples import Sampling
from llmc.models.wan import WanI2V
from llmc.numerics.spec import LayerSpec, TensorSpec
from llmc.policy.rules import Policy

ASSETS = Path(__file__).parents[2] / "assets"
SAMPLING = Sampling(height=64, width=64, num_frames=5, steps=2, guidance_scale=1.0, seed=42)
LINEARS = 4 * 12


class Products(TorchDispatchMode):
    """Counts the operators that run."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count[func.overloadpacket.__name__] += 1
        return func(*args, **(kwargs or {}))


def small_network(spec: LayerSpec) -> tuple[WanI2V, Any, Network]:
    adapter = WanI2V()
    pipeline = adapter.load(ASSETS / "tiny_wan_i2v", "auto", "cpu")
    return adapter, pipeline, prepare(adapter.parts(pipeline)[0], Policy(spec), (), (SmoothQuant(alpha=0.5),))


@torch.no_grad()
@pytest.mark.parametrize("name, product", [("int8", "_int_mm"), ("fp8_e4m3", "_scaled_mm")])
def test_real_arithmetic_makes_the_video_that_was_judged(name: str, product: str) -> None:
    act = TensorSpec(format=name, granularity="per_token")
    adapter, pipeline, network = small_network(
        LayerSpec(weight=TensorSpec(format=name, granularity="per_channel"), act=act)
    )
    sample = read_samples(ASSETS / "wan_i2v/eval", needs_image=True)[0]
    calibrate(LoadedModel(adapter, pipeline), [network], CalibrationPlan([(0, sample, SAMPLING)], 256))
    outputs: list[torch.Tensor] = []
    network.part.module.register_forward_hook(lambda *io: outputs.append(io[-1][0]))
    with in_position([network], "pretrain"):
        adapter.generate(pipeline, sample, SAMPLING)
    with in_position([network], "fake_quant"):
        simulated = adapter.generate(pipeline, sample, SAMPLING)
    with in_position([network], "real_quant"), Products() as products:
        real = adapter.generate(pipeline, sample, SAMPLING)
    assert products.count[product] == LINEARS * SAMPLING.steps
    steps = range(0, len(outputs), SAMPLING.steps)
    for exact, wanted, found in zip(*(outputs[first : first + SAMPLING.steps] for first in steps), strict=True):
        # sums in another order round a few acts the other way, and how many depends on the processor
        assert (found - wanted).norm() <= 0.25 * (wanted - exact).norm()
    psnr = PSNR().score(simulated.frames, real.frames).value
    assert psnr is not None and psnr >= 50


def test_a_layer_that_no_product_computes_is_refused_by_name() -> None:
    _, _, network = small_network(LayerSpec(weight=TensorSpec(format="int8", granularity="per_channel")))
    refused = pytest.raises(UnsupportedSpec, match=r"blocks\.0\.attn1\.to_q: .* both quantized")
    with refused, in_position([network], "real_quant"):
        pass
