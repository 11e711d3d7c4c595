"""Models of real size: their names from headers alone, and the memory that converting takes."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from llmc.convert.checkpoint import open_checkpoint

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "converter.py"
MEASURED = """
import sys
from pathlib import Path
from llmc.convert.converter import plan_conversion, write_conversion
from llmc.convert.lora import Lora

def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024

def peak(source, output, direction, loras, count):
    Path("/proc/self/clear_refs").write_text("5")  # the highest use so far is forgotten
    before = status("VmRSS:")
    plan = plan_conversion(source, direction, "hunyuan_dit", loras)
    write_conversion(plan, output, max_shard_tensors=count)
    return status("VmHWM:") - before

folder = Path(sys.argv[1])
print(peak(folder / "source", folder / "there", "backward", [], 2))
print(peak(folder / "there", folder / "back", "forward", [], 5))
print(peak(folder / "source", folder / "merged", "backward", [Lora(folder / "lora.safetensors")], 2))
"""


def wan_14b() -> Mapping[str, torch.Tensor]:
    from diffusers import WanTransformer3DModel

    with torch.device("meta"):
        model = WanTransformer3DModel(
            num_attention_heads=40, attention_head_dim=128, in_channels=36, out_channels=16, num_layers=40,
            ffn_dim=13824, image_dim=1280, added_kv_proj_dim=5120,
        )  # fmt: skip
    return model.bfloat16().state_dict()


def write_headers(folder: Path, tensors: Mapping[str, torch.Tensor], count: int) -> None:
    """Shards as they are published, but for their values, which are holes in the files."""
    names = sorted(tensors)
    weight_map = {}
    for start in range(0, len(names), count):
        file, end, header = f"model-{start:05d}.safetensors", 0, {}
        for name in names[start : start + count]:
            size = tensors[name].numel() * 2
            header[name] = {"dtype": "BF16", "shape": list(tensors[name].shape), "data_offsets": [end, end + size]}
            end += size
            weight_map[name] = file
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            stream.truncate(8 + len(text) + end)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


def test_every_rename_of_14_billion_parameters_is_listed_in_seconds(tmp_path: Path) -> None:
    tensors = wan_14b()
    write_headers(tmp_path, tensors, 100)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    command = [sys.executable, str(SCRIPT), "-s", str(tmp_path), "-o", str(tmp_path / "out"), "-d", "backward"]
    done = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, check=True)
    seconds = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
    assert done.stdout.count(" -> ") == len(tensors) == 1303
    assert "blocks.39.attn2.add_v_proj.weight -> blocks.39.cross_attn.v_img.weight\n" in done.stdout
    assert "1303 tensors, 1301 with a new name, 32.8 GB; nothing was written" in done.stdout
    assert not (tmp_path / "out").exists()
    print(f"{seconds:.1f} s of one core")
    assert seconds < 20  # most of it is the import of torch


def shards(folder: Path, blocks: int, width: int) -> int:
    """The single blocks of a HunyuanVideo, one shard each; returns the bytes of a shard."""
    folder.mkdir()
    for block in range(blocks):
        module = f"single_transformer_blocks.{block}"
        linears = {
            "attn.to_q": (1, 1),
            "attn.to_k": (1, 1),
            "attn.to_v": (1, 1),
            "proj_mlp": (4, 1),
            "proj_out": (1, 5),
        }
        tensors = {f"{module}.{name}.weight": torch.rand(a * width, b * width) for name, (a, b) in linears.items()}
        save_file(tensors, folder / f"model-{block}.safetensors")
    return sum(tensor.nbytes for tensor in tensors.values())


@pytest.mark.parametrize(
    ("blocks", "width"), [(3, 1024), pytest.param(4, 3072, marks=pytest.mark.slow)], ids=["150 MB", "1.8 GB"]
)
def test_memory_stays_under_one_shard_and_a_tenth_with_fused_layers_and_a_lora(
    tmp_path: Path, blocks: int, width: int
) -> None:
    shard = shards(tmp_path / "source", blocks, width)
    lora = {"single_blocks.0.linear1": (7 * width, width), "single_blocks.1.linear2": (width, 5 * width)}
    halves = {f"{module}.lora_up.weight": torch.rand(rows, 8) for module, (rows, _) in lora.items()}
    halves |= {f"{module}.lora_down.weight": torch.rand(8, columns) for module, (_, columns) in lora.items()}
    save_file(halves, tmp_path / "lora.safetensors")
    measured = subprocess.run(
        [sys.executable, "-c", MEASURED, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    peaks = map(int, measured.stdout.split())
    ratios = {name: used / shard for name, used in zip(("there", "back", "merged"), peaks, strict=True)}
    print(ratios)
    assert max(ratios.values()) < 1.1, ratios
    before, after = (dict(open_checkpoint(tmp_path / name).read()) for name in ("source", "back"))
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
