"""HunyuanVideo by its adapter's table, and HunyuanVideo-1.5, whose original has q, k and v apart; LightX2V runs 1.5."""

from __future__ import annotations

from llmc.convert.rows import Table
from llmc.models.hunyuan import ORIGINAL as HUNYUAN
from llmc.renames import Fused

QKV = {"img": ("to_q", "to_k", "to_v"), "txt": ("add_q_proj", "add_k_proj", "add_v_proj")}
IN_BOTH = ("img_in.", "txt_in.", "double_blocks.", "final_layer.")

HUNYUAN_15: Table = (
    *(
        row
        for row in HUNYUAN
        for target in (row[1] if isinstance(row, tuple) else row.target,)
        if target.startswith(IN_BOTH) and not (isinstance(row, Fused) and target.startswith("double_blocks."))
    ),
    *(
        (f"transformer_blocks.{{}}.attn.{ours}", f"double_blocks.{{}}.{stream}_attn_{theirs}")
        for stream, names in QKV.items()
        for ours, theirs in zip(names, "qkv", strict=True)
    ),
    *(
        (f"time_embed.{ours}.linear_{number}", f"{theirs}.mlp.{index}")
        for ours, theirs in (("timestep_embedder", "time_in"), ("timestep_embedder_r", "time_r_in"))
        for number, index in ((1, 0), (2, 2))
    ),
    ("cond_type_embed", "cond_type_embedding"),
    ("context_embedder_2.norm", "byt5_in.layernorm"),
    *((f"context_embedder_2.linear_{number}", f"byt5_in.fc{number}") for number in (1, 2, 3)),
    ("image_embedder.norm_in", "vision_in.proj.0"),
    ("image_embedder.linear_1", "vision_in.proj.1"),
    ("image_embedder.linear_2", "vision_in.proj.3"),
    ("image_embedder.norm_out", "vision_in.proj.4"),
)
