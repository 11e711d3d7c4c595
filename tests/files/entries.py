"""Good files of every kind at tiny size, and everything of ours that reads them."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from llmc.__main__ import main
from llmc.calib.block import BlockStep
from llmc.calib.coverage import Coverage
from llmc.calib.group import Group
from llmc.calib.journal import Journal
from llmc.calib.recording import cached_recording
from llmc.calib.samples import read_samples
from llmc.calib.store import Call, CallStore
from llmc.compat.load import load_config
from llmc.compat.modelslim.scripted.dump import read_calls
from llmc.convert.encoders import to_release
from llmc.convert.names import Known, Names
from llmc.engine.source import load_pipeline
from llmc.eval.results import read_results
from llmc.layers.linear import QuantLinear
from llmc.models.base import adapters
from llmc.models.samples import Video
from llmc.numerics.spec import LayerSpec, TensorSpec
from llmc.scripted import safe_torch_load
from tests.end_to_end.small_run import small_config

WEIGHTS = "diffusion_pytorch_model.safetensors"
Run = Callable[[Path], object]


@dataclass(frozen=True)
class Entry:
    """A way in: which files it reads, below the root of a copy, and what reads them."""

    files: Sequence[str]  # patterns
    run: Run  # an exit code, or anything
    writes: tuple[str, ...] = ()  # folders


def make_good(root: Path) -> None:
    """Everything that any entry reads."""
    rounding = {"method": {"name": "RTN"}, "weight": {"bit": 8}, "act": {"bit": 8}}
    quant = {"video_gen": rounding, "text_encoder": rounding, "image_encoder": rounding}
    config = small_config(root, eval=None, quant=quant)
    assert main(["run", "--config", str(config), "--set", "save.native_names=True"]) == 0
    alone = ["save.save_lightx2v=False", "quant.text_encoder=null", "quant.image_encoder=null"]
    for target in ("comfyui", "diffusers", "mindie"):
        own = [f"save.save_{target}=True", f"save.save_path={root}/{target}", f"base.run_dir={root}/{target}-run"]
        assert (
            main(["run", "--config", str(config), *(word for each in (*alone, *own) for word in ("--set", each))]) == 0
        )
    _make_checkpoints(root)
    (root / "samples" / "index.jsonl").write_text('{"text": "a fox", "image": "0.png"}\n{"text": "a car"}\n')
    _make_calibration(root)
    (root / "secret.safetensors").write_bytes((root / "model/transformer" / WEIGHTS).read_bytes())


def _make_checkpoints(root: Path) -> None:
    """The transformer in shards, as .pth, and with the names of its release; a LoRA; the text encoder's release."""
    tensors = load_file(root / "model/transformer" / WEIGHTS)
    config = (root / "model/transformer/config.json").read_text()
    names = sorted(tensors)
    (root / "shards").mkdir()
    shards = {"part-1.safetensors": names[::2], "part-2.safetensors": names[1::2]}
    for file, own in shards.items():
        save_file({name: tensors[name] for name in own}, root / "shards" / file, {"format": "pt"})
    weight_map = {name: file for file, own in shards.items() for name in own}
    (root / f"shards/{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    (root / "shards/config.json").write_text(config)
    torch.save(tensors, root / "model.pth")
    original = Names(adapters()["WanI2V"].original(nn.Module())).to_original({n: Known(t) for n, t in tensors.items()})
    (root / "native").mkdir()
    save_file({n: t.make().contiguous() for n, t in original.items()}, root / "native/model.safetensors")
    lora = {f"transformer.blocks.0.attn1.to_q.lora_{half}.weight": torch.ones(shape) for half, shape in (
        ("A", (2, tensors["blocks.0.attn1.to_q.weight"].shape[1])),
        ("B", (tensors["blocks.0.attn1.to_q.weight"].shape[0], 2)),
    )}  # fmt: skip
    (root / "lora").mkdir()
    about = {"lora_adapter_metadata": json.dumps({"transformer.lora_alpha": 4})}
    save_file(lora, root / "lora/pytorch_lora_weights.safetensors", about)
    save_file(lora, root / "lora/adapter_model.safetensors")
    (root / "lora/adapter_config.json").write_text(json.dumps({"lora_alpha": 2, "alpha_pattern": {"to_q": 4.0}}))
    encoder = {n: Known(t) for n, t in load_file(root / "model/text_encoder/model.safetensors").items()}
    released = to_release("UMT5EncoderModel", encoder)
    torch.save({name: tensor.make() for name, tensor in released.items()}, root / "umt5.pth")


def _blocks() -> list[BlockStep]:
    layer = QuantLinear(nn.Linear(32, 16), LayerSpec(weight=TensorSpec(format="int8", granularity="per_channel")))
    group = Group("part.blocks.0.linear", ("linear",), (layer,), (), stats={"range": torch.randn(2, 32)})
    return [BlockStep("blocks.0", nn.ModuleList([layer]), [group])]


def _record(sample: int, stores: dict[str, CallStore]) -> Video:
    stores["part"].add(
        Call(sample, 0, 1.0, "cond", (torch.ones(2), [1, "a", None]), {"x": torch.ones(3)}, torch.ones(1))
    )
    return Video(torch.zeros(1, 3, 2, 2), torch.zeros(1))


def _make_calibration(root: Path) -> None:
    journal, (block,) = Journal(root / "journal"), _blocks()
    block.linears[next(iter(block.linears))].round()
    journal.keep("part", block)
    coverage = Coverage()
    coverage.note("part", 0, 1)
    journal.keep_coverage(coverage)
    cached_recording(root / "float", ["part"], [0], _record)
    torch.save([(torch.ones(1, 4),), {"input": torch.ones(1, 4)}], root / "calib.pth")
    (root / "calib.pth").chmod(0o600)


# what reads them


@cache
def converter() -> ModuleType:
    spec = importlib.util.spec_from_file_location("converter", Path(__file__).parents[2] / "scripts/converter.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _convert(*options: str) -> Run:
    return lambda root: converter().main([option.replace("ROOT", str(root)) for option in options])


def _command(*options: str) -> Run:
    return lambda root: main([option.replace("ROOT", str(root)) for option in options])


def _load(*overrides: str) -> Run:
    def run(root: Path) -> None:
        load_pipeline(load_config(root / "config.yaml", [each.replace("ROOT", str(root)) for each in overrides]).model,
                      "cpu")  # fmt: skip

    return run


def _resume(root: Path) -> None:
    journal, blocks = Journal(root / "journal"), _blocks()
    if journal.restore("part", blocks):
        (layer,) = blocks[0].linears.values()
        layer.mode = "quantized"
        layer(torch.ones(1, 32))
    journal.coverage().gaps(["part"])


def _recording(root: Path) -> None:
    recording = cached_recording(root / "float", ["part"], [0], _record)
    assert [len(list(calls.calls("cpu"))) for calls in recording.calls.values()] == [1]


def _dump(root: Path) -> None:
    calls: Any = safe_torch_load(root / "calib.pth")
    read_calls(calls if isinstance(calls, list) else [calls], nn.Linear(4, 4))


CHECK = ("check", "ROOT/config.yaml", "--set", "save.save_path=ROOT/elsewhere")
OUT = ("-o", "ROOT/out")
VERIFY = ("--against", "ROOT/run", "--json")
MODEL = ("model/model_index.json", "model/*/*.json", "model/*/*.safetensors")
ENTRIES: dict[str, Entry] = {
    "check": Entry(MODEL, _command(*CHECK)),
    "check --explain": Entry(("model/model_index.json", "model/*/config.json"), _command(*CHECK, "--explain")),
    "load": Entry(("model/*.json", "model/*/*.json", "model/*/*.safetensors"), _load()),
    "a transformer from elsewhere": Entry(
        ("shards/*", "shards/*.json"), _command(*CHECK, "--explain", "--set", "model.transformer=ROOT/shards")
    ),
    "a .pth from elsewhere": Entry(("model.pth",), _load("model.transformer=ROOT/model.pth")),
    "an encoder from elsewhere": Entry(("umt5.pth",), _load("model.text_encoder=ROOT/umt5.pth")),
    "convert a folder": Entry(
        ("shards/*", "shards/*.json"), _convert("-s", "ROOT/shards", *OUT, "-d", "backward"), ("out",)
    ),
    "convert a .pth": Entry(("model.pth",), _convert("-s", "ROOT/model.pth", *OUT, "-d", "backward"), ("out",)),
    "convert without a direction": Entry(("model.pth", "native/*"), _convert("-s", "ROOT/model.pth", *OUT), ("out",)),
    "convert back": Entry(("native/*",), _convert("-s", "ROOT/native", *OUT, "-d", "forward"), ("out",)),
    "convert a pipeline": Entry(
        ("model/model_index.json", "model/transformer/*"),
        _convert("-s", "ROOT/model", *OUT, "-d", "backward"),
        ("out",),
    ),
    "convert an encoder": Entry(
        ("umt5.pth",), _convert("-s", "ROOT/umt5.pth", *OUT, "-d", "forward", "-t", "wan_t5", "--single_file"), ("out",)
    ),
    "merge a LoRA": Entry(
        ("lora/pytorch_lora_weights.safetensors",),
        _convert("-s", "ROOT/shards", *OUT, "--lora_path", "ROOT/lora/pytorch_lora_weights.safetensors"),
        ("out",),
    ),
    "merge a LoRA of PEFT": Entry(
        ("lora/adapter*",),
        _convert("-s", "ROOT/shards", *OUT, "--lora_path", "ROOT/lora/adapter_model.safetensors"),
        ("out",),
    ),
    "verify LightX2V": Entry(
        ("export/*.json", "export/*.safetensors", "export/*/*.pth", "export/*/*.safetensors"),
        _command("verify", "ROOT/export", *VERIFY),
    ),
    "verify ComfyUI": Entry(
        ("comfyui/*/*.json", "comfyui/*/*.safetensors"),
        _command("verify", "ROOT/comfyui/comfyui", "--against", "ROOT/comfyui-run"),
    ),
    "verify diffusers": Entry(
        ("diffusers/*/*.json", "diffusers/*/transformer/*"),
        _command("verify", "ROOT/diffusers/diffusers", "--against", "ROOT/diffusers-run"),
    ),
    "verify MindIE": Entry(
        ("mindie/*.json", "mindie/*.safetensors"), _command("verify", "ROOT/mindie", "--against", "ROOT/mindie-run")
    ),
    "verify against a run": Entry(
        ("run/weights.json", "run/judged.json", "run/witness-*", "run/config.json", "model/transformer/*"),
        _command("verify", "ROOT/export", *VERIFY),
    ),
    "verify against a model": Entry(
        ("model/transformer/*",), _command("verify", "ROOT/mindie", "--float", "ROOT/model", "--json")
    ),
    "samples": Entry(("samples/samples.json",), lambda root: read_samples(root / "samples", needs_image=True)),
    "samples of msModelSlim": Entry(
        ("samples/index.jsonl",), lambda root: read_samples(root / "samples/index.jsonl", needs_image=False)
    ),
    "results": Entry(("run/results.json",), lambda root: read_results(root / "run/results.json")),
    "a journal": Entry(("journal/*",), _resume),
    "a recording": Entry(("float/*.*", "float/part/*"), _recording, ("float",)),
    "a dump": Entry(("calib.pth",), _dump),
}


def copied(good: Path, root: Path) -> None:
    """The good files again, each a file of its own name that may be replaced; paths in them lead to the copy."""
    shutil.copytree(good, root, copy_function=os.link)
    for file in (root / "config.yaml", root / "run/config.json", root / "mindie-run/config.json",
                 *root.glob("export/lightx2v_*.json")):  # fmt: skip
        text = file.read_text()
        file.unlink()
        file.write_text(text.replace(str(good), str(root)))
    for manifest in root.rglob("llmc_manifest.json"):
        content = json.loads(manifest.read_text()) | {"layers": {}}  # so that changes meet what is read
        for name in content["files"]:
            digest = hashlib.sha256((manifest.parent / name).read_bytes()).hexdigest()
            content["files"][name] = {"sha256": digest}
        manifest.unlink()
        manifest.write_text(json.dumps(content, indent=1))


def files_of(entry: Entry, root: Path) -> list[Path]:
    """What of a copy an entry reads."""
    return sorted({file for pattern in entry.files for file in root.glob(pattern) if file.is_file()})
