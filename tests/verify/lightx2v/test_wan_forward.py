"""The block that verifying runs is that of diffusers."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch.nn.functional import linear

from llmc.verify.lightx2v.wan_forward import Inputs, run_block
from llmc.verify.sources import open_float
from llmc.verify.wan import read_wan
from tests.tiny_pipelines import save_wan_i2v


@torch.no_grad()
def test_a_block_computes_what_diffusers_does(tmp_path: Path) -> None:
    from diffusers import WanTransformer3DModel

    save_wan_i2v(tmp_path)
    network = WanTransformer3DModel.from_pretrained(tmp_path / "transformer").eval()
    wan = read_wan(dict(network.config))
    assert not isinstance(wan, list)
    model = open_float(tmp_path, "transformer")
    assert model is not None
    own = {each.native.removeprefix("blocks.1."): model.read(each) for each in wan.float_tensors()}
    multiply = {each.native.removeprefix("blocks.1."): partial(linear, weight=model.read(each, "weight"))
                for each in wan.linears() if each.native.startswith("blocks.1.")}  # fmt: skip
    for name, call in multiply.items():
        multiply[name] = partial(call, bias=own[f"{name}.bias"])
    torch.manual_seed(0)
    # diffusers takes the last 512 tokens for text
    inputs = Inputs(torch.randn(6, 64), torch.randn(512, 64), torch.randn(3, 64), torch.randn(6, 64))
    assert inputs.image is not None
    found = run_block(inputs.x, inputs, wan.heads, {k: v for k, v in own.items() if v is not None}, multiply)
    still = (torch.ones(1, 6, 1, 16), torch.zeros(1, 6, 1, 16))  # positions that turn nothing
    context = torch.cat([inputs.image, inputs.text])[None]
    wanted = network.blocks[1](inputs.x[None], context, inputs.time[None], still)[0]
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
