"""The keys of a Wan config.json: diffusers' names from and to those of the original Wan release, which LightX2V reads.

Keys that neither knows (`quant_method`, ...) pass through. What has no counterpart on the other side is kept under
`_source_config` (diffusers ignores keys with an underscore, LightX2V unknown ones), so that the way back is exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llmc.errors import AdapterError
from llmc.files.numbers import source_of, whole_number

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
    heads, width = (whole_number(config, key, AdapterError) for key in ("num_attention_heads", "attention_head_dim"))
    kind, source = _model_type(config), _source(config)
    # the second is a record that diffusers keeps at run time, never in a file
    config = {key: value for key, value in config.items() if key not in (SOURCE, "_use_default_values")}
    translated = {*RENAMED, *DIFFUSERS_ONLY, "attention_head_dim"}
    original = {
        "_class_name": ORIGINAL_CLASSES.get(_kind(config), "WanModel"),
        "model_type": kind,
        "text_len": TEXT_LEN,
        "dim": heads * width,
        **{new: config[old] for old, new in RENAMED.items() if old in config},
        **({"qk_norm": config["qk_norm"] is not None} if "qk_norm" in config else {}),
        **{key: value for key, value in config.items() if key not in translated},
    }
    return _with_source(original, source, config, DIFFUSERS_ONLY)


def to_diffusers(config: Mapping[str, Any], shapes: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Original Wan -> diffusers; only the tensors say whether images are embedded: `shapes`, by original names."""
    if "num_heads" not in config:
        return dict(config)
    heads, dim = (whole_number(config, key, AdapterError) for key in ("num_heads", "dim"))
    source = _source(config)
    config = {key: value for key, value in config.items() if key != SOURCE}
    translated = {*RENAMED.values(), *ORIGINAL_ONLY, "dim"}
    kind = "animate" if any(name.startswith("face_adapter.") for name in shapes) else _kind(config)
    image_norm, positions = shapes.get("img_emb.proj.0.weight"), shapes.get("img_emb.emb_pos")
    diffusers = {
        "_class_name": DIFFUSERS_CLASSES.get(kind, "WanTransformer3DModel"),
        "attention_head_dim": dim // heads,
        **{old: config[new] for old, new in RENAMED.items() if new in config},
        **({"qk_norm": QK_NORM if config["qk_norm"] else None} if "qk_norm" in config else {}),
        "image_dim": image_norm[0] if image_norm else None,
        "added_kv_proj_dim": dim if image_norm else None,
        "pos_embed_seq_len": positions[1] if positions and len(positions) > 1 else None,
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


def _source(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What an earlier translation kept."""
    found = config.get(SOURCE)
    if found is None or isinstance(found, Mapping):
        return found
    raise AdapterError(
        f"{source_of(config)} holds a {type(found).__name__} under {SOURCE}, where the keys are that a conversion "
        "kept; take that key out, or the file from the release"
    )


def _kind(config: Mapping[str, Any]) -> str:
    """Which of the Wans that are a class of their own, by what only their configuration has; empty: none of them."""
    marks = {"vace": "vace_layers", "animate": "motion_encoder_dim"}
    return next((kind for kind, mark in marks.items() if mark in config), "")


def _model_type(config: Mapping[str, Any]) -> str:
    if kind := _kind(config):
        return kind
    if config.get("pos_embed_seq_len"):
        return "flf2v"
    ins, outs = (whole_number(config, key, AdapterError) for key in ("in_channels", "out_channels"))
    if config.get("image_dim") or ins > outs:
        return "i2v"
    return "ti2v" if outs == 48 else "t2v"  # Wan2.2's 5B: the only one with 48 latent channels
