"""Qwen-Image: diffusers' names are LightX2V's too, so that a conversion only lays out files and merges LoRAs."""

from __future__ import annotations

from llmc.convert.rows import Table

MODULES = (
    *("img_in", "txt_in", "txt_norm", "norm_out.linear", "proj_out"),
    *(f"time_text_embed.timestep_embedder.linear_{number}" for number in (1, 2)),
    *("time_text_embed.addition_t_embedding",),
    *(
        f"transformer_blocks.{{}}.{module}"
        for module in (
            *("img_mod.1", "txt_mod.1", "img_mlp.net.0.proj", "img_mlp.net.2", "txt_mlp.net.0.proj", "txt_mlp.net.2"),
            *("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.norm_q", "attn.norm_k"),
            *("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj", "attn.to_add_out"),
            *("attn.norm_added_q", "attn.norm_added_k"),
        )
    ),
)
QWEN: Table = tuple((module, module) for module in MODULES)
