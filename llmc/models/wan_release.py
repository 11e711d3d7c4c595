"""Wan in the layout of its own releases: original names, encoders and autoencoder as .pth, and no model_index.json."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from llmc.errors import AdapterError
from llmc.files.json_text import FileObject, read_object_if_there
from llmc.files.numbers import is_whole
from llmc.files.state_dict import Unreadable, load_saved, named_tensors
from llmc.models.base import quiet_libraries
from llmc.models.folder import component_problems, tensor_shapes
from llmc.models.index import PipelineIndex
from llmc.models.libraries import Loading
from llmc.models.wan_config import to_diffusers
from llmc.models.wan_vae import vae_config

PIPELINES = {
    "t2v": "WanPipeline", "ti2v": "WanPipeline", "i2v": "WanImageToVideoPipeline", "flf2v": "WanImageToVideoPipeline",
    "vace": "WanVACEPipeline",
}  # fmt: skip
BESIDE = {  # component -> its file and its class
    "text_encoder": ("models_t5_umt5-xxl-enc-*.pth", "UMT5EncoderModel"),
    "image_encoder": ("models_clip_*.pth", "CLIPVisionModel"),
    "vae": ("Wan2.?_VAE.pth", "AutoencoderKLWan"),
}
TOKENIZER = "google/umt5-xxl"
EXPERTS = {"transformer": "high_noise_model", "transformer_2": "low_noise_model"}
BOUNDARY = {"t2v": 0.875, "i2v": 0.9}  # of the schedule of Wan2.2, where the high-noise expert hands over
FLOW_SHIFT = 5.0  # the usual one of the releases' own scripts; `sample_shift` sets another
CLIP_HEAD = 80  # the width of a head of ViT-H/14, which no shape tells


class Shapes(dict[str, tuple[int, ...]]):
    """Those of the tensors of one file, or of the files of a folder: one that is missing is told with where it was
    looked for."""

    def __init__(self, path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        super().__init__(shapes)
        self.path = path

    def __missing__(self, name: str) -> tuple[int, ...]:
        found = ", ".join(list(self)[:3]) or "no tensor"
        raise AdapterError(
            f"{self.path} has no {name}, by which its sizes are told (found: {found}); a release of Wan has it there: "
            "download that file again"
        )


@dataclass(frozen=True)
class Release(PipelineIndex):
    """A release in the words of a pipeline folder; configurations are told from its config.json and from shapes."""

    is_release: ClassVar[bool] = True

    def config(self, component: str) -> Mapping[str, Any]:
        path = self.files.get(component)
        if path is None:
            return {}
        shapes = shapes_of(path)
        if component in TOLD_BY_SHAPES:
            try:
                return TOLD_BY_SHAPES[component](shapes)
            except (IndexError, ValueError, TypeError, ZeroDivisionError) as error:
                raise AdapterError(
                    f"{path} has tensors of other shapes than a release of Wan, which tell no sizes ({error}): "
                    "download that file again"
                ) from error
        config = original_config(path)
        if missing := [key for key in ("dim", "num_heads") if not is_whole(config.get(key))]:
            raise AdapterError(
                f"{path / 'config.json'} does not say {' and '.join(missing)}; a release of Wan does: download that "
                "file again"
            )
        return FileObject(to_diffusers(config, shapes), path / "config.json")

    def shift(self) -> float:
        return FLOW_SHIFT


def read_release(folder: Path) -> Release | None:
    """What a release holds; None if the folder is none."""
    networks = {name: folder / inside for name, inside in EXPERTS.items() if (folder / inside).is_dir()}
    networks = networks or {"transformer": folder}
    kind, *others = (original_config(path).get("model_type") for path in networks.values())
    if not isinstance(kind, str) or kind not in PIPELINES or any(other != kind for other in others):
        return None
    if others and kind not in BOUNDARY:
        raise AdapterError(
            f"{folder} holds two experts of the kind {kind}; those that are known are {' and '.join(BOUNDARY)}: "
            "download their config.json again"
        )
    files, classes = dict(networks), {}
    for name, (pattern, class_name) in BESIDE.items():
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            raise AdapterError(
                f"{folder} holds {len(found)} files {pattern}: {', '.join(file.name for file in found)}; a release has "
                "one; keep only that in the folder"
            )
        if found:
            files[name], classes[name] = found[0], class_name
        elif name != "image_encoder":
            raise AdapterError(f"{folder} is a release of Wan, but holds no {pattern}; download it to there")
    if not (folder / TOKENIZER).is_dir():
        raise AdapterError(f"{folder} is a release of Wan, but holds no {TOKENIZER}; download that folder to there")
    settings: dict[str, Any] = {"expand_timesteps": True} if kind == "ti2v" else {}
    if len(networks) > 1:
        settings["boundary_ratio"] = BOUNDARY[kind]
    transformer = "WanVACETransformer3DModel" if kind == "vace" else "WanTransformer3DModel"
    classes |= dict.fromkeys(networks, transformer)
    return Release(folder, PIPELINES[kind], classes, settings, files)


def release_pipeline(index: PipelineIndex, given: Mapping[str, torch.nn.Module]) -> Any:
    """The pipeline of a release around its networks, which are read elsewhere."""
    quiet_libraries()
    import diffusers
    from transformers import AutoTokenizer, CLIPImageProcessor

    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=FLOW_SHIFT
    )
    if problem := next(component_problems(index.folder / TOKENIZER), None):
        raise AdapterError(problem)
    with Loading(f"the tokenizer in {index.folder / TOKENIZER}"):
        tokenizer = AutoTokenizer.from_pretrained(index.folder / TOKENIZER, local_files_only=True)
    parts: dict[str, Any] = {
        "tokenizer": tokenizer,
        "scheduler": scheduler,
        **given,
    }
    if index.class_name == "WanImageToVideoPipeline":
        encoder: Any = given.get("image_encoder")
        size = encoder.config.image_size if encoder is not None else 0
        processor = CLIPImageProcessor(size={"shortest_edge": size}, crop_size=size) if size else None
        parts |= {"image_encoder": encoder, "image_processor": processor}
    return getattr(diffusers, index.class_name)(**parts, **index.settings)


def original_config(folder: Path) -> Mapping[str, Any]:
    """The config.json of a network; empty if there is none."""
    return read_object_if_there(folder / "config.json", AdapterError) or {}


def shapes_of(path: Path) -> Shapes:
    """The shapes of all tensors of a .pth, or of the safetensors files of a folder; no values are read."""
    if not path.is_dir():
        try:
            values = load_saved(path, AdapterError)
        except Unreadable as error:
            raise AdapterError(f"{path} cannot be read: {error}; copy or download it again") from error
        if not isinstance(values, dict):
            raise AdapterError(
                f"{path} holds more than names with tensors; a release has just those: download it again"
            )
        tensors = named_tensors(path, values, AdapterError)
        return Shapes(path, {name: tuple(tensor.shape) for name, tensor in tensors.items()})
    files = sorted(path.glob("*.safetensors"))
    return Shapes(path, {name: shape for file in files for name, shape in tensor_shapes(file).items()})


def text_encoder_config(shapes: Shapes) -> dict[str, Any]:
    """The config.json of an UMT5 encoder."""
    tokens, width = shapes["token_embedding.weight"]
    buckets, heads = shapes["blocks.0.pos_embedding.embedding.weight"]
    return {
        "model_type": "umt5", "vocab_size": tokens, "d_model": width, "d_ff": shapes["blocks.0.ffn.fc1.weight"][0],
        "d_kv": shapes["blocks.0.attn.q.weight"][0] // heads, "num_heads": heads, "num_layers": _blocks(shapes),
        "relative_attention_num_buckets": buckets, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
    }  # fmt: skip


def image_encoder_config(shapes: Shapes) -> dict[str, Any]:
    """The config.json of a CLIP image encoder."""
    width, _, patch, _ = shapes["visual.patch_embedding.weight"]
    places = shapes["visual.pos_embedding"][-2] - 1  # without that of the class
    return {
        "model_type": "clip_vision_model", "hidden_size": width, "num_attention_heads": max(1, width // CLIP_HEAD),
        "intermediate_size": shapes["visual.transformer.0.mlp.0.weight"][0], "hidden_act": "gelu", "patch_size": patch,
        "num_hidden_layers": _blocks(shapes, "visual.transformer."), "image_size": patch * round(places**0.5),
    }  # fmt: skip


def _blocks(shapes: Shapes, prefix: str = "blocks.") -> int:
    found = (re.match(rf"{re.escape(prefix)}(\d{{1,9}})\.", name) for name in shapes)
    return 1 + max(int(number[1]) for number in found if number)


TOLD_BY_SHAPES: Mapping[str, Callable[[Shapes], dict[str, Any]]] = {
    "vae": vae_config,
    "text_encoder": text_encoder_config,
    "image_encoder": image_encoder_config,
}
