"""Text and image encoders of pipelines: T5, UMT5, MT5, CLIP and Llama as transformers has them, as parts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from llmc.errors import AdapterError
from llmc.files.numbers import source_of
from llmc.models.base import quiet_libraries
from llmc.models.index import PipelineIndex
from llmc.models.libraries import Loading
from llmc.models.networks import Made
from llmc.models.parts import Layout, LinearGroup, Part
from llmc.models.settings import check_settings
from llmc.renames import Renames
from llmc.section import Section

# Norms are affine and read by one group. A product of a gate and a linear branch is linear in the branch, so that its
# rows can absorb a scale. Nobody: what stands after CLIP's GELU, or after Llama's attention, where heads share values.
_T5 = (
    LinearGroup(
        ("layer.0.SelfAttention.q", "layer.0.SelfAttention.k", "layer.0.SelfAttention.v"), fold=("layer.0.layer_norm",)
    ),
    LinearGroup(("layer.0.SelfAttention.o",), fold=("layer.0.SelfAttention.v",), attention="layer.0.SelfAttention"),
    LinearGroup(
        ("layer.1.DenseReluDense.wi_0", "layer.1.DenseReluDense.wi_1", "layer.1.DenseReluDense.wi"),
        fold=("layer.1.layer_norm",),
    ),
    LinearGroup(("layer.1.DenseReluDense.wo",), fold=("layer.1.DenseReluDense.wi_1",)),
)
LAYOUT: Layout = {
    "T5Block": _T5,
    "UMT5Block": _T5,
    "MT5Block": _T5,
    "CLIPEncoderLayer": (
        LinearGroup(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), fold=("layer_norm1",)),
        LinearGroup(("self_attn.out_proj",), fold=("self_attn.v_proj",), attention="self_attn"),
        LinearGroup(("mlp.fc1",), fold=("layer_norm2",)),
        LinearGroup(("mlp.fc2",)),
    ),
    "LlamaDecoderLayer": (
        LinearGroup(("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"), fold=("input_layernorm",)),
        LinearGroup(("self_attn.o_proj",)),
        LinearGroup(("mlp.gate_proj", "mlp.up_proj"), fold=("post_attention_layernorm",)),
        LinearGroup(("mlp.down_proj",), fold=("mlp.up_proj",)),
    ),
}

# What pipelines read of each encoder: an output by name, or one of the hidden states if they ask for those.
READS: Mapping[str, str | int] = {
    "T5EncoderModel": "last_hidden_state",
    "UMT5EncoderModel": "last_hidden_state",
    "MT5EncoderModel": "last_hidden_state",
    "CLIPTextModel": "pooler_output",
    "CLIPTextModelWithProjection": -2,
    "CLIPVisionModel": -2,
    "CLIPVisionModelWithProjection": -2,
    "LlamaModel": -3,
}

# transformers' names -> those of Wan's own release, which LightX2V reads too
UMT5_ORIGINAL: Renames = (
    ("shared", "token_embedding"),
    ("encoder.block.{}.layer.0.layer_norm", "blocks.{}.norm1"),
    ("encoder.block.{}.layer.0.SelfAttention.q", "blocks.{}.attn.q"),
    ("encoder.block.{}.layer.0.SelfAttention.k", "blocks.{}.attn.k"),
    ("encoder.block.{}.layer.0.SelfAttention.v", "blocks.{}.attn.v"),
    ("encoder.block.{}.layer.0.SelfAttention.o", "blocks.{}.attn.o"),
    ("encoder.block.{}.layer.0.SelfAttention.relative_attention_bias", "blocks.{}.pos_embedding.embedding"),
    ("encoder.block.{}.layer.1.layer_norm", "blocks.{}.norm2"),
    ("encoder.block.{}.layer.1.DenseReluDense.wi_0", "blocks.{}.ffn.gate.0"),
    ("encoder.block.{}.layer.1.DenseReluDense.wi_1", "blocks.{}.ffn.fc1"),
    ("encoder.block.{}.layer.1.DenseReluDense.wo", "blocks.{}.ffn.fc2"),
    ("encoder.final_layer_norm", "norm"),
)
CLIP_VISION_ORIGINAL: Renames = (
    ("embeddings.class_embedding", "visual.cls_embedding"),
    ("embeddings.patch_embedding", "visual.patch_embedding"),
    ("embeddings.position_embedding.weight", "visual.pos_embedding"),
    ("pre_layrnorm", "visual.pre_norm"),
    ("encoder.layers.{}.layer_norm1", "visual.transformer.{}.norm1"),
    ("encoder.layers.{}.self_attn.to_qkv", "visual.transformer.{}.attn.to_qkv"),
    ("encoder.layers.{}.self_attn.out_proj", "visual.transformer.{}.attn.proj"),
    ("encoder.layers.{}.layer_norm2", "visual.transformer.{}.norm2"),
    ("encoder.layers.{}.mlp.fc1", "visual.transformer.{}.mlp.0"),
    ("encoder.layers.{}.mlp.fc2", "visual.transformer.{}.mlp.2"),
    ("post_layernorm", "visual.post_norm"),
)


@dataclass(frozen=True)
class Encoder(Part):
    """An encoder of prompts or images: it runs a few times for each sample, and often on padding that nobody reads."""

    def kept(self, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> tuple[Any, dict[str, Any], Any]:
        """The call without padding on the right, and of its output, if it is kept, only what the pipeline reads."""
        output = None if output is None else self.read(output)
        mask = kwargs.get("attention_mask", args[1] if len(args) > 1 else None)
        if not isinstance(mask, torch.Tensor) or mask.dim() != 2:
            return args, kwargs, output
        length = int(mask.sum(1).max())
        if mask[:, length:].any():  # padded on the left
            return args, kwargs, output

        def cut(value: Any) -> Any:
            return value[:, :length] if isinstance(value, torch.Tensor) and value.shape[:2] == mask.shape else value

        return tuple(map(cut, args)), {key: cut(value) for key, value in kwargs.items()}, cut(output)

    def read(self, output: Any) -> torch.Tensor:
        wanted = READS[type(self.module).__name__]
        states = output.get("hidden_states")
        if isinstance(wanted, int):
            wanted, output = (wanted, states) if states is not None else ("last_hidden_state", output)
        read: torch.Tensor = output[wanted]
        return read


def encoder_parts(pipeline: Any, names: Collection[str], sections: Collection[Section]) -> list[Part]:
    """The encoders of `pipeline` that one of the sections of `quant` is about."""
    modules = {name: getattr(pipeline, name, None) for name in names if section_of(name) in sections}
    return [_part(name, module) for name, module in modules.items() if module is not None]


def encoder_skeletons(index: PipelineIndex, names: Collection[str], sections: Collection[Section]) -> Iterator[Part]:
    """The encoders that sections are about, as the folder's configurations describe them, on the meta device."""
    for name, class_name in encoder_classes(index, names).items():
        if section_of(name) in sections:
            known_class(name, class_name)
            yield _part(name, empty_encoder(class_name, index.config(name)))


def empty_encoder(class_name: str, config: Mapping[str, Any]) -> torch.nn.Module:
    """The encoder of transformers that a config.json describes, on the meta device."""
    quiet_libraries()
    import transformers

    made = getattr(transformers, class_name)
    check_settings(config)
    with Loading(f"the {class_name} of {source_of(config)}"), torch.device("meta"):
        encoder: torch.nn.Module = made(made.config_class.from_dict(dict(config)))
    return encoder.eval()


def filled_encoder(empty: torch.nn.Module, tensors: Mapping[str, Made], dtype: torch.dtype) -> torch.nn.Module:
    """Such an encoder with all of its parameters; of tied ones the first is given."""
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):  # positions are computed, not stored
        encoder: Any = type(empty)(empty.config)
    state = {name: tensor.make().to(dtype) for name, tensor in tensors.items()}
    encoder.load_state_dict(state, strict=False, assign=True)
    encoder.tie_weights()
    lacking = [name for name, parameter in encoder.named_parameters() if parameter.is_meta]
    assert not lacking, f"no weights were given for {lacking}"
    filled: torch.nn.Module = encoder.eval().requires_grad_(False)
    return filled


def encoder_classes(index: PipelineIndex, names: Collection[str]) -> dict[str, str]:
    """The encoders that a pipeline folder holds, and the class of each."""
    return {name: index.components[name] for name in names if name in index.components}


def section_of(name: str) -> Section:
    """The section of `quant` that an encoder of that name is quantized by."""
    return Section.IMAGE_ENCODER if name.startswith("image") else Section.TEXT_ENCODER


def known_class(name: str, class_name: str) -> None:
    """Refuse an encoder of a class that has no layout."""
    if class_name not in READS:
        raise AdapterError(
            f"the pipeline's {name} is a {class_name}, whose layout is not known; known are {', '.join(READS)}; "
            f"leave quant.{section_of(name)} out, or add its blocks to llmc/models/encoders.py"
        )


def _part(name: str, module: torch.nn.Module) -> Encoder:
    known_class(name, type(module).__name__)
    blocks = [(path, block) for path, block in module.named_modules() if type(block).__name__ in LAYOUT]
    return Encoder(name, module, blocks, LAYOUT, section_of(name))
