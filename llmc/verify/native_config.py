"""The config.json of a Wan network in its repository's words, which LightX2V reads, in diffusers' words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmc.files.numbers import is_whole
from llmc.files.words import shown

RENAMED: Mapping[str, str] = {  # native key -> that of diffusers, where both hold one number
    "num_heads": "num_attention_heads", "in_dim": "in_channels", "out_dim": "out_channels", "num_layers": "num_layers",
    "ffn_dim": "ffn_dim", "freq_dim": "freq_dim", "eps": "eps", "patch_size": "patch_size",
    "vace_layers": "vace_layers", "vace_in_dim": "vace_in_channels",
}  # fmt: skip
NEEDED = ("dim", "num_heads", "num_layers", "in_dim", "out_dim", "ffn_dim", "freq_dim")
TEXT_LEN = 512  # tokens of every Wan's text
# what a native file says by its tensors alone: key of diffusers -> tensor, axis
BY_SHAPE: Mapping[str, tuple[str, int]] = {
    "text_dim": ("text_embedding.0.weight", 1),
    "image_dim": ("img_emb.proj.0.weight", 0),
    "pos_embed_seq_len": ("img_emb.emb_pos", 1),
}


def lacking(config: Mapping[str, Any]) -> list[str]:
    """The keys that hold no size, with what they hold instead."""
    found = []
    for key in NEEDED:
        if not is_whole(config.get(key)):
            found.append(f"{key} (it is {shown(repr(config[key]))})" if key in config else key)
    if not found and config["dim"] % config["num_heads"]:
        found.append(f"a num_heads that shares out the {config['dim']} of dim (it is {config['num_heads']})")
    return found


def from_native(config: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Any] | None:
    """The network's config.json in diffusers' words; None where sizes are missing."""
    if lacking(config):
        return None
    found: dict[str, Any] = {
        "_class_name": "WanVACETransformer3DModel" if config.get("vace_layers") else "WanTransformer3DModel",
        "attention_head_dim": config["dim"] // config["num_heads"],
        "cross_attn_norm": True,
        "qk_norm": "rms_norm_across_heads",
    }
    found |= {theirs: config[native] for native, theirs in RENAMED.items() if native in config}
    for key, (tensor, axis) in BY_SHAPE.items():
        shape = shapes.get(tensor, ())
        found[key] = shape[axis] if len(shape) > axis else None
    if found["text_dim"] is None:
        del found["text_dim"]
    return found | ({"added_kv_proj_dim": config["dim"]} if found["image_dim"] is not None else {})


def differences(config: Mapping[str, Any], judged: Mapping[str, Any]) -> Iterator[str]:
    """Every number of a native config.json that is not that of the network in diffusers' words."""
    heads, width = judged.get("num_attention_heads"), judged.get("attention_head_dim")
    if isinstance(heads, int) and isinstance(width, int) and config.get("dim") != heads * width:
        yield f"dim is {config.get('dim')}; the network that was judged has {heads * width}"
    if config.get("text_len", TEXT_LEN) != TEXT_LEN:
        yield f"text_len is {config['text_len']}; every Wan reads {TEXT_LEN} tokens of text"
    for native, theirs in RENAMED.items():
        said, wanted = config.get(native), judged.get(theirs)
        if isinstance(said, list) or isinstance(wanted, list | tuple):
            said, wanted = list(said or ()), list(wanted or ())
        if native in config and said != wanted:
            yield f"{native} is {shown(repr(said))}; the network that was judged has {shown(repr(wanted))}"
