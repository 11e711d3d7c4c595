"""Ways to spoil an export, each with a manifest that is brought up to date: what a runtime would load without a word.

`python -m tests.verify.damages` makes the exports, spoils each in turn, and prints which rule sees it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from llmc.__main__ import main
from llmc.verify.run import verify
from llmc.verify.verdict import Report
from tests.end_to_end.small_run import small_config
from tests.end_to_end.test_families import family_config
from tests.verify.conftest import Exported

Tensors = dict[str, torch.Tensor]
MANIFEST = "llmc_manifest.json"
INT8, TOKEN = {"bit": 8}, {"bit": 8, "granularity": "per_token"}
STATIC = {"bit": 8, "granularity": "per_tensor", "static": True}
FP8 = {"bit": "e4m3", "granularity": "per_tensor"}
SMOOTH = {"name": "SmoothQuant", "alpha": 0.5, "gate": False}


@dataclass
class Damaged:
    """A copy of an export to be changed."""

    folder: Path
    file: Path
    tensors: Tensors
    metadata: dict[str, str]

    def times(self, name: str, factor: float) -> None:
        self.tensors[name] = (self.tensors[name].float() * factor).to(self.tensors[name].dtype)

    def noise(self, name: str) -> None:
        tensor = self.tensors[name]
        values = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(1)) * tensor.float().std()
        self.tensors[name] = values.to(tensor.dtype)

    def swap(self, one: str, other: str) -> None:
        self.tensors[one], self.tensors[other] = self.tensors[other], self.tensors[one]

    def json(self, file: str, **values: Any) -> None:
        """Other values in a JSON file, whose name may be a pattern; None takes a key out."""
        (path,) = self.folder.glob(file)
        content = {**json.loads(path.read_text()), **values}
        path.unlink()  # it may be a link to the float model's own
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    def replace(self, file: str, change: Callable[[Tensors], Tensors]) -> None:
        """Other tensors in a file of a component."""
        path = self.folder / file
        tensors = change(load_file(path))
        path.unlink()
        save_file(tensors, path, {"format": "pt"})


Change = Callable[[Damaged], object]


def t(change: str, *arguments: Any) -> Change:
    return lambda it: getattr(it, change)(*arguments)


def j(file: str, **values: Any) -> Change:
    return lambda it: it.json(file, **values)


def rows_swapped(name: str, one: slice, other: slice) -> Change:
    def change(it: Damaged) -> None:
        before = it.tensors[name].clone()
        it.tensors[name][one], it.tensors[name][other] = before[other], before[one]

    return change


def both(*changes: Change) -> Change:
    return lambda it: [change(it) for change in changes]


def tagged(name: str, **data: Any) -> Change:
    def change(it: Damaged) -> None:
        about = json.loads(it.metadata[name])
        about["_data"] |= data
        it.metadata[name] = json.dumps(about)

    return change


def described(name: str, **says: Any) -> Change:
    return lambda it: it.tensors.update({name: torch.tensor(list(json.dumps(says).encode()), dtype=torch.uint8)})


def zeroed(tensors: Tensors) -> Tensors:
    return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}


def nudged(tensors: Tensors) -> Tensors:
    name = sorted(tensors)[0]
    return {**tensors, name: tensors[name] * 1.01}


WAN = {"quant": {"video_gen": {"method": SMOOTH, "weight": INT8, "act": TOKEN}}}
NVFP4 = {"weight": {"bit": "nvfp4"}, "act": {"bit": "nvfp4", "static": True}, "method": {"name": "RTN"}}
MIXED = [{"match": "blocks.0.*", "weight": INT8, "act": {**STATIC, "symmetric": False}}]
# export -> family, sections that differ, folder below save_path
EXPORTS: dict[str, tuple[str, dict[str, Any], str]] = {
    "lightx2v": ("WanI2V", {**WAN, "save": {"native_names": True}}, ""),
    "nvfp4": ("WanT2V", {"quant": {"video_gen": NVFP4}, "save": {"native_names": True}}, ""),
    "per tensor": ("WanT2V", {"quant": {"video_gen": {"method": {"name": "RTN"}, "weight": FP8, "act": {
        **FP8, "static": True}}}, "save": {"native_names": True}}, ""),
    "experts": ("Wan2T2V", {"save": {"native_names": True}}, ""),
    "comfyui": ("WanT2V", {"quant": {"video_gen": {"method": SMOOTH, "weight": FP8, "act": {**FP8, "static": True}}},
                           "save": {"save_lightx2v": False, "save_comfyui": True}}, "comfyui"),
    "comfyui flux": ("Flux", {"save": {"save_comfyui": True}}, "comfyui"),
    "comfyui hunyuan": ("HunyuanVideo", {"save": {"save_comfyui": True}}, "comfyui"),
    "diffusers": ("WanI2V", {**WAN, "save": {"save_lightx2v": False, "save_diffusers": True}}, "diffusers"),
    "diffusers sd3": ("SD3", {"save": {"save_diffusers": True}}, "diffusers"),
    "mindie": ("WanT2V", {"quant": {"video_gen": {"method": SMOOTH, "weight": INT8, "act": TOKEN, "rules": MIXED}},
                          "save": {"save_lightx2v": False, "save_mindie": True}}, ""),
    "mindie hunyuan": ("HunyuanVideo", {"quant": {"video_gen": {"method": SMOOTH, "weight": {"bit": "mxfp8"},
                                                                "act": {"bit": "mxfp8"}}},
                                        "save": {"save_lightx2v": False, "save_mindie": True, "soc": "a5"}}, ""),
}  # fmt: skip

B0, B1 = "blocks.0", "blocks.1"
RUNTIME, CONFIG, VAE = "lightx2v_*.json", "config.json", "vae/diffusion_pytorch_model.safetensors"
HF0 = "blocks.0.attn1.to_q"
DAMAGES: dict[str, tuple[str, Change]] = {
    "head overwritten with noise": ("lightx2v", t("noise", "head.head.weight")),
    "patch embedding overwritten with noise": ("lightx2v", t("noise", "patch_embedding.weight")),
    "time embedding overwritten with noise": ("lightx2v", t("noise", "time_embedding.0.weight")),
    "text embedding overwritten with noise": ("lightx2v", t("noise", "text_embedding.2.weight")),
    "time projection overwritten with noise": ("lightx2v", t("noise", "time_projection.1.weight")),
    "image projection overwritten with noise": ("lightx2v", t("noise", "img_emb.proj.1.weight")),
    "biases of two blocks swapped": ("lightx2v", t("swap", f"{B0}.ffn.0.bias", f"{B1}.ffn.0.bias")),
    "affine_norm1 of two blocks swapped": ("lightx2v", both(
        t("swap", f"{B0}.affine_norm1.weight", f"{B1}.affine_norm1.weight"),
        t("swap", f"{B0}.affine_norm1.bias", f"{B1}.affine_norm1.bias"))),
    "bias of affine_norm1 doubled": ("lightx2v", t("times", f"{B0}.affine_norm1.bias", 2)),
    "affine_norm3 doubled on both": ("lightx2v", both(
        t("times", f"{B0}.affine_norm3.weight", 2), t("times", f"{B0}.affine_norm3.bias", 2))),
    "norm_q of self and cross swapped": (
        "lightx2v", t("swap", f"{B0}.self_attn.norm_q.weight", f"{B0}.cross_attn.norm_q.weight")),
    "norm_q and norm_k swapped": (
        "lightx2v", t("swap", f"{B0}.self_attn.norm_q.weight", f"{B0}.self_attn.norm_k.weight")),
    "norm_k_img of two blocks swapped": (
        "lightx2v", t("swap", f"{B0}.cross_attn.norm_k_img.weight", f"{B1}.cross_attn.norm_k_img.weight")),
    "norm3 doubled": ("lightx2v", t("times", f"{B0}.norm3.weight", 2)),
    "modulation of two blocks swapped": ("lightx2v", t("swap", f"{B0}.modulation", f"{B1}.modulation")),
    "shift and scale of a modulation swapped": ("lightx2v", lambda it: it.tensors.update(
        {f"{B0}.modulation": it.tensors[f"{B0}.modulation"][:, [1, 0, 2, 3, 4, 5]].contiguous()})),
    "modulation of the head doubled": ("lightx2v", t("times", "head.modulation", 2)),
    "a weight and its scale in place of another": ("lightx2v", both(
        t("swap", f"{B0}.self_attn.q.weight", f"{B0}.self_attn.k.weight"),
        t("swap", f"{B0}.self_attn.q.weight_scale", f"{B0}.self_attn.k.weight_scale"))),
    "one code changed": ("lightx2v", lambda it: it.tensors[f"{B0}.ffn.2.weight"][0, :1].neg_()),
    "scales of two rows swapped": ("lightx2v", rows_swapped(f"{B0}.ffn.0.weight_scale", slice(0, 1), slice(1, 2))),
    "num_heads halved": ("lightx2v", j(CONFIG, num_heads=2)),
    "another eps in config.json": ("lightx2v", j(CONFIG, eps=1e-5)),
    "another text_len in config.json": ("lightx2v", j(CONFIG, text_len=256)),
    "another freq_dim in config.json": ("lightx2v", j(CONFIG, freq_dim=16)),
    "a setting more in config.json": ("lightx2v", j(CONFIG, window_size=[4, 4])),
    "another text_len at start": ("lightx2v", j(RUNTIME, text_len=77)),
    "infer_steps 0": ("lightx2v", j(RUNTIME, infer_steps=0)),
    "another sample_shift": ("lightx2v", j(RUNTIME, sample_shift=1.0)),
    "another guidance": ("lightx2v", j(RUNTIME, sample_guide_scale=1.5)),
    "guidance off": ("lightx2v", j(RUNTIME, enable_cfg=False)),
    "a kernel that truncates": ("lightx2v", j(RUNTIME, dit_quant_scheme="int8-triton")),
    "another video length": ("lightx2v", j(RUNTIME, target_video_length=81)),
    "a cache of features switched on": ("lightx2v", j(RUNTIME, feature_caching="Tea")),
    "global scale of the input /64, alpha *64": ("nvfp4", both(
        t("times", f"{B0}.ffn.0.input_global_scale", 1 / 64), t("times", f"{B0}.ffn.0.alpha", 64))),
    "global scales of two inputs swapped, alphas made to fit": ("nvfp4", both(
        t("times", f"{B0}.self_attn.q.input_global_scale", 2), t("times", f"{B0}.self_attn.q.alpha", 0.5))),
    "alpha doubled": ("nvfp4", t("times", f"{B1}.ffn.2.alpha", 2)),
    "input_scale *1024": ("per tensor", t("times", f"{B0}.ffn.0.input_scale", 1024)),
    "input_scale of two layers swapped": (
        "per tensor", t("swap", f"{B0}.ffn.0.input_scale", f"{B0}.ffn.2.input_scale")),
    "boundary .1": ("experts", j(RUNTIME, boundary=0.1)),
    "the experts swapped": ("experts", lambda it: _swap_folders(it)),
    "guidance of the experts swapped": ("experts", j(RUNTIME, sample_guide_scale=[9.0, 1.0])),
    "input_scale of ComfyUI swapped": ("comfyui", t("swap", f"{B0}.ffn.0.input_scale", f"{B0}.ffn.2.input_scale")),
    "input_scale of ComfyUI halved": ("comfyui", t("times", f"{B0}.self_attn.o.input_scale", 0.5)),
    "inputs left float in ComfyUI": ("comfyui", both(
        described(f"{B0}.ffn.0.comfy_quant", format="float8_e4m3fn", full_precision_matrix_mult=True),
        lambda it: it.tensors.pop(f"{B0}.ffn.0.input_scale"))),
    "head of ComfyUI overwritten with noise": ("comfyui", t("noise", "head.head.weight")),
    "FLUX.1: halves of the last modulation swapped": (
        "comfyui flux", rows_swapped("final_layer.adaLN_modulation.1.weight", slice(0, 64), slice(64, 128))),
    "FLUX.1: q and k of a fused bias swapped": (
        "comfyui flux", rows_swapped("double_blocks.0.img_attn.qkv.bias", slice(0, 64), slice(64, 128))),
    "FLUX.1: norms of query and key swapped": ("comfyui flux", t(
        "swap", "double_blocks.0.img_attn.norm.query_norm.scale", "double_blocks.0.img_attn.norm.key_norm.scale")),
    "FLUX.1: text embedding overwritten with noise": ("comfyui flux", t("noise", "txt_in.weight")),
    "HunyuanVideo: a refiner's q and v swapped": ("comfyui hunyuan", rows_swapped(
        "txt_in.individual_token_refiner.blocks.0.self_attn_qkv.weight", slice(0, 64), slice(128, 192))),
    "HunyuanVideo: modulations of image and text swapped": (
        "comfyui hunyuan", t("swap", "double_blocks.0.img_mod.linear.weight", "double_blocks.0.txt_mod.linear.weight")),
    "VAE of zeros": ("diffusers", lambda it: it.replace(VAE, zeroed)),
    "one tensor of the VAE scaled": ("diffusers", lambda it: it.replace(VAE, nudged)),
    "another shift in the scheduler": ("diffusers", j("scheduler/scheduler_config.json", flow_shift=1.0)),
    "the multiplier of an input doubled": (
        "diffusers", t("times", "blocks.0.ffn.net.0.proj._weight_act_pre_scale", 2)),
    "eps of the transformer": ("diffusers", j("transformer/config.json", eps=1e-3)),
    "SD3: position table overwritten with noise": ("diffusers sd3", t("noise", "pos_embed.pos_embed")),
    "SD3: biases of two blocks swapped": ("diffusers sd3", t(
        "swap", "transformer_blocks.0.attn.to_q.bias", "transformer_blocks.1.attn.to_q.bias")),
    "mul_scale of two layers swapped": ("mindie", t(
        "swap", f"{B0}.ffn.0.div.mul_scale", f"{B1}.ffn.0.div.mul_scale")),
    "input_scale and deq_scale doubled": ("mindie", both(
        t("times", f"{B0}.self_attn.q.linear.input_scale", 2), t("times", f"{B0}.self_attn.q.linear.deq_scale", 2))),
    "a dynamic bias of MindIE doubled": ("mindie", t("times", f"{B1}.ffn.2.linear.bias", 2)),
    "biases of two fused layers swapped": ("mindie hunyuan", t(
        "swap", "double_blocks.0.img_attn_qkv.linear.bias", "double_blocks.0.txt_attn_qkv.linear.bias")),
}  # fmt: skip


def _swap_folders(it: Damaged) -> None:
    high, low, aside = it.folder / "high_noise_model", it.folder / "low_noise_model", it.folder / "aside"
    high.rename(aside)
    low.rename(high)
    aside.rename(low)
    it.file = it.folder / "high_noise_model" / it.file.name
    it.tensors = load_file(it.file)


def export(name: str, out: Path) -> Exported:
    """Make one of the exports, of a float model no tensor of which is all alike."""
    family, sections, below = EXPORTS[name]
    sections = {**sections, "save": {"save_path": str(out / "export"), **sections["save"]}}
    if "quant" in sections or family.startswith("Wan"):
        config = small_config(out, 1, family, eval=None, **sections)
    else:
        import yaml

        config = family_config(out, family, weight=INT8, act=TOKEN)
        content = {**yaml.safe_load(config.read_text()), "save": sections["save"]}
        del content["eval"]
        config.write_text(yaml.safe_dump(content))
    for folder in out.glob("model/transformer*"):
        _vary(folder)
    assert main(["run", "--config", str(config)]) == 0
    return Exported(out / "export" / below, out / "run", out / "model")


def _vary(folder: Path) -> None:
    """Norms and biases that differ from one another, as those of trained models do."""
    generator = torch.Generator().manual_seed(3)
    for file in folder.glob("*.safetensors"):
        tensors = {name: tensor + 0.1 * torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
                   if tensor.dim() == 1 else tensor for name, tensor in load_file(file).items()}  # fmt: skip
        save_file(tensors, file, {"format": "pt"})


def damage(made: Exported, folder: Path, change: Change) -> Path:
    """A copy that is changed, with a manifest that knows of nothing."""
    shutil.copytree(made.folder, folder, ignore=shutil.ignore_patterns("run", "*.lock"))
    for file in folder.glob("lightx2v_*.json"):
        file.write_text(file.read_text().replace(str(made.folder.resolve()), str(folder.resolve())))
    file = next(iter(sorted(folder.glob("*.safetensors")) or sorted(folder.glob("transformer/*.safetensors"))
                     or sorted(folder.glob("high_noise_model/*.safetensors"))))  # fmt: skip
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata() or {}
    it = Damaged(folder, file, load_file(file), metadata)
    change(it)
    mode = it.file.stat().st_mode
    save_file({name: tensor.contiguous().clone() for name, tensor in it.tensors.items()}, it.file, it.metadata)
    it.file.chmod(mode)
    files = [each for each in sorted(folder.rglob("*")) if each.is_file() and each.name != MANIFEST]
    digests = {each.relative_to(folder).as_posix(): {"sha256": hashlib.sha256(each.read_bytes()).hexdigest()}
               for each in files}  # fmt: skip
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "files": digests}))
    return folder


def rules_broken(report: Report) -> list[str]:
    return list(dict.fromkeys(verdict.rule for verdict in report.verdicts if verdict.status == "fail"))


def table(names: list[str]) -> int:
    """Print a row for each damage, what finds it with a run and without; returns how many were missed with it."""
    made: dict[str, Exported] = {}
    missed = 0
    with tempfile.TemporaryDirectory() as scratch:
        print("| damage | export | broken with `--against` | without |\n|---|---|---|---|")
        for number, name in enumerate(names):
            key, change = DAMAGES[name]
            if key not in made:
                out = Path(scratch) / key.replace(" ", "-")
                out.mkdir()
                made[key] = export(key, out)
                good = damage(made[key], out / "good", lambda it: None)
                found = verify(good, made[key].run)
                assert found.passed, [(v.rule, v.status, v.problems, v.note) for v in found.verdicts
                                      if v.status != "pass"]  # fmt: skip
            copy = damage(made[key], Path(scratch) / f"damaged-{number}", change)
            against, alone = verify(copy, made[key].run), verify(copy)
            missed += not against.failed
            without = "caught" if alone.failed else "not proven" if alone.unproven else "missed"
            print(f"| {name} | {key} | {', '.join(rules_broken(against)) or '**missed**'} | {without} |", flush=True)
    print(f"\n{len(names) - missed} of {len(names)} caught with --against")
    return missed


if __name__ == "__main__":
    raise SystemExit(min(1, table(sys.argv[1:] or list(DAMAGES))))
