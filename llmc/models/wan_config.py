"""The keys of a Wan config.json: diffusers' names from and to those of the original Wan release, which LightX2V reads.

Keys that neither knows (`quant_method`, ...) pass through. What has no counterpart on the other side is kept under
`_source_config` (diffusers ignores keys with an underscore, LightX2V unknown ones), so that the way back is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

SOURCE = "_source_config"
RENAMED = {
    "in_channels": "in_dim",
    "out_channels": "out_dim",
    "num_attention_heads": "num_heads",
    "vace_in_channels": "vace_in_dim",
}
DIFFUSERS_ONLY = {"_class_name", "image_dim", "added_kv_proj_dim", "pos_embed_seq_len", "rope_max_seq_len", "qk_norm"}
ORIGINAL_ONLY = {"_class_name", "model_type", "text_len", "window_size", "qk_norm"}
ORIGINAL_CLASSES = {"vace": "VaceWanModel", "animate": "WanAnimateModel"}
DIFFUSERS_CLASSES = {"vace": "WanVACETransformer3DModel", "animate": "WanAnimateTransformer3DModel"}
QK_NORM = "rms_norm_across_heads"  # the only one that Wan has
TEXT_LEN = 512  # of every Wan


def to_original(config: Mapping[str, Any]) -> dict[str, Any]:
    """diffusers -> original Wan; a config without diffusers' keys is returned as it is."""
    if "num_attention_heads" not in config:
        return dict(config)
    # a record that diffusers keeps at run time, never in a file
    config = {key: value for key, value in config.items() if key != "_use_default_values"}
    source = config.pop(SOURCE, None)
    translated = {*RENAMED, *DIFFUSERS_ONLY, "attention_head_dim"}
    original = {
        "_class_name": ORIGINAL_CLASSES.get(_kind(config), "WanModel"),
        "model_type": _model_type(config),
        "text_len": TEXT_LEN,
        "dim": config["num_attention_heads"] * config["attention_head_dim"],
        **{new: config[old] for old, new in RENAMED.items() if old in config},
        **({"qk_norm": config["qk_norm"] is not None} if "qk_norm" in config else {}),
        **{key: value for key, value in config.items() if key not in translated},
    }
    return _with_source(original, source, config, DIFFUSERS_ONLY)


def to_diffusers(config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Original Wan -> diffusers; only the tensors say whether images are embedded: `shapes`, by original names."""
    if "num_heads" not in config:
        return dict(config)
    config = dict(config)
    source = config.pop(SOURCE, None)
    translated = {*RENAMED.values(), *ORIGINAL_ONLY, "dim"}
    kind = "animate" if any(name.startswith("face_adapter.") for name in shapes) else _kind(config)
    image_norm, positions = shapes.get("img_emb.proj.0.weight"), shapes.get("img_emb.emb_pos")
    diffusers = {
        "_class_name": DIFFUSERS_CLASSES.get(kind, "WanTransformer3DModel"),
        "attention_head_dim": config["dim"] // config["num_heads"],
        **{old: config[new] for old, new in RENAMED.items() if new in config},
        **({"qk_norm": QK_NORM if config["qk_norm"] else None} if "qk_norm" in config else {}),
        "image_dim": image_norm[0] if image_norm else None,
        "added_kv_proj_dim": config["dim"] if image_norm else None,
        "pos_embed_seq_len": positions[1] if positions else None,
        **{key: value for key, value in config.items() if key not in translated},
    }
    return _with_source(diffusers, source, config, ORIGINAL_ONLY)


def _with_source(
    translated: dict[str, Any], source: Mapping[str, Any] | None, config: Mapping[str, Any], untranslated: set[str]
) -> dict[str, Any]:
    """On the way there, keep what cannot be translated; on the way back, restore it."""
    if source is not None:
        return {**translated, **source}
    kept = {key: value for key, value in config.items() if key in untranslated}
    return translated | {SOURCE: kept} if kept else translated


def _kind(config: Mapping[str, Any]) -> str:
    """Which of the Wans that are a class of their own, by what only their configuration has; empty: none of them."""
    marks = {"vace": "vace_layers", "animate": "motion_encoder_dim"}
    return next((kind for kind, mark in marks.items() if mark in config), "")


def _model_type(config: Mapping[str, Any]) -> str:
    if kind := _kind(config):
        return kind
    if config.get("pos_embed_seq_len"):
        return "flf2v"
    if config.get("image_dim") or config["in_channels"] > config["out_channels"]:
        return "i2v"
    return "ti2v" if config["out_channels"] == 48 else "t2v"  # Wan2.2's 5B: the only one with 48 latent channels
