"""Open-Sora-Plan v1.2 in its official layout: one folder per network, MT5-XXL and the causal autoencoder beside it.

No class of diffusers is the causal autoencoder: its decoder doubles time and space in one trilinear step. So videos are
decoded by the user's own checkout of the original repository, or not at all.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from pydantic import Field, StrictBool, model_validator

from llmc.errors import AdapterError
from llmc.log import log
from llmc.models.base import ModelAdapter, like, multiples, quiet_libraries
from llmc.models.index import PipelineIndex, stored_dtype
from llmc.models.libraries import Loading
from llmc.models.opensora_network import empty_network, load_network, read_config, rotary_tables
from llmc.models.parts import Layout, LinearGroup, Part, named_blocks
from llmc.models.samples import OnStep, Sample, Sampling, Video
from llmc.renames import Renames

TEXT_TOKENS = 512  # of every prompt, padded; the mask hides the padding
COMPRESSION = (4, 8, 8)  # of the causal autoencoder, in time, height, width

# MindIE keeps the names of the original repository, which diffusers took over
MINDIE: Renames = tuple(
    (name, name)
    for name in (
        "pos_embed.proj",
        "adaln_single.emb.timestep_embedder.linear_1",
        "adaln_single.emb.timestep_embedder.linear_2",
        "adaln_single.linear",
        "caption_projection.linear_1",
        "caption_projection.linear_2",
        "scale_shift_table",
        "proj_out",
        *(
            f"transformer_blocks.{{}}.{module}"
            for module in (
                "scale_shift_table",
                *(f"{attn}.{proj}" for attn in ("attn1", "attn2") for proj in ("to_q", "to_k", "to_v", "to_out.0")),
                "ff.net.0.proj",
                "ff.net.2",
            )
        ),
    )
)

# Who can absorb a scale: only v, for the output projection. The norms have no weights, and scale and shift are a table
# of the block plus one timestep embedding that all blocks share: neither is a factor that a block could change alone.
# Cross-attention reads the residual stream itself, k and v a text that all blocks share; a GELU stands before ff.net.2.
LAYOUT: Layout = {
    "AllegroTransformerBlock": (
        LinearGroup(("attn1.to_q", "attn1.to_k", "attn1.to_v")),
        LinearGroup(("attn1.to_out.0",), fold=("attn1.to_v",), attention="attn1"),
        LinearGroup(("attn2.to_q",)),
        LinearGroup(("attn2.to_k", "attn2.to_v")),
        LinearGroup(("attn2.to_out.0",), fold=("attn2.to_v",), attention="attn2"),
        LinearGroup(("ff.net.0.proj",)),
        LinearGroup(("ff.net.2",)),
    )
}

# latents (1, 4, t, h, w) -> pixels (1, frames, 3, height, width) in [-1, 1]
Decode: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"


@dataclass
class OpenSoraPlanPipeline:
    """What makes a video; `decode` is None where no code was given to decode with."""

    tokenizer: Any
    text_encoder: torch.nn.Module
    transformer: torch.nn.Module
    scheduler: Any
    config: Mapping[str, Any]  # the network's config.json, in the original's words
    decode: Decode | None

    def encode_prompt(self, text: str) -> tuple[torch.Tensor, torch.Tensor]:
        """The text as the network reads it, (1, 512, channels), and which of it is not padding."""
        return embed(self, text)


class OpenSoraPlan(ModelAdapter):
    """Open-Sora-Plan v1.2 text-to-video, in its official layout; `path` is the folder of one network (93x480p, ...)."""

    name: Literal["OpenSoraPlan"] = "OpenSoraPlan"
    text_encoder_path: Path | None = Field(
        None, description="folder of MT5-XXL and its tokenizer; default: `mt5-xxl` beside `path`"
    )
    vae_path: Path | None = Field(
        None, description="folder of the causal autoencoder, read with code_path only; default: `vae` beside `path`"
    )
    code_path: Path | None = Field(
        None, description="your checkout of the original repository, to decode with; left out: latents are judged"
    )
    trust_remote_code: StrictBool = Field(False, description="True: the code in code_path may be run")

    known_as: ClassVar[tuple[str, ...]] = ("OpenSoraPlanV1_2", "Open-Sora-Plan", "Open-Sora-Plan-v1.2.0")
    pipeline: ClassVar[str] = "OpenSoraT2V"
    renames: ClassVar[Mapping[str, Renames]] = {"mindie": MINDIE}
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder",)

    @model_validator(mode="after")
    def _runs_only_code_that_is_trusted(self) -> OpenSoraPlan:
        if self.code_path is not None and not self.trust_remote_code:
            raise ValueError(
                "code_path is given, and trust_remote_code is not True; the code in that folder would be run, and it "
                "unpickles the autoencoder's checkpoint: write `trust_remote_code: True` if you trust both, or leave "
                "code_path out to judge latents"
            )
        return self

    @classmethod
    def check_sampling(cls, height: int, width: int, num_frames: int) -> list[str]:
        problems = multiples(height, width)
        if num_frames % 4 != 1:
            problems.append(
                f"num_frames is {num_frames}; the autoencoder makes 4k + 1 frames, such as {num_frames // 4 * 4 + 1}"
            )
        return problems

    def index(self, path: Path) -> PipelineIndex:
        places = {"text_encoder": self.sources(path)["text_encoder_path"]}
        return replace(super().index(path), components={"text_encoder": "MT5EncoderModel"}, files=places)

    def sources(self, path: Path) -> dict[str, Path]:
        beside = path.resolve().parent
        found = {"path": path, "text_encoder_path": self.text_encoder_path or beside / "mt5-xxl"}
        if self.code_path is not None:
            found |= {"vae_path": self.vae_path or beside / "vae", "code_path": self.code_path}
        return found

    def load(self, path: Path, torch_dtype: str, device: str, **given: torch.nn.Module) -> OpenSoraPlanPipeline:
        quiet_libraries()
        from diffusers import EulerAncestralDiscreteScheduler
        from transformers import AutoTokenizer

        dtype = stored_dtype(path) if torch_dtype == "auto" else getattr(torch, torch_dtype)
        places = self.sources(path)
        decode = None
        if self.code_path is None:
            log.warning("videos are not decoded, latents are judged: model.code_path names no code to decode with")
        else:
            decode = load_decoder(self.code_path, places["vae_path"], device)
        with Loading(f"the tokenizer in {places['text_encoder_path']}"):
            tokenizer = AutoTokenizer.from_pretrained(places["text_encoder_path"], local_files_only=True)
        return OpenSoraPlanPipeline(
            tokenizer=tokenizer,
            text_encoder=load_text_encoder(places["text_encoder_path"], dtype).to(device),
            transformer=given.get("transformer") or load_network(path, dtype).to(device),
            scheduler=EulerAncestralDiscreteScheduler(),
            config=read_config(path),
            decode=decode,
        )

    def skeleton(self, path: Path, **configs: Mapping[str, Any]) -> list[Part]:
        quiet_libraries()
        config = read_config(path)
        return [_part(empty_network(config), config)]

    def network_of(self, config: Mapping[str, Any]) -> Part:
        return _part(empty_network(config), config)

    def parts(self, pipeline: OpenSoraPlanPipeline) -> list[Part]:
        return [_part(pipeline.transformer, pipeline.config)]

    def inputs(self, index: PipelineIndex, network: torch.nn.Module, sampling: Sampling) -> dict[str, Any]:
        config: Any = network.config
        frames, height, width = latent_sizes(sampling)
        return {
            "hidden_states": like(1, config.in_channels, frames, height, width),
            "encoder_hidden_states": like(1, TEXT_TOKENS, config.caption_channels),
            "encoder_attention_mask": like(1, TEXT_TOKENS, dtype=torch.int64),
            "timestep": like(1),
            "image_rotary_emb": rotary_tables(
                config, (frames, height // 2, width // 2), torch.device("meta"), torch.float32
            ),
        }

    def generate(
        self, pipeline: OpenSoraPlanPipeline, sample: Sample, sampling: Sampling, on_step: OnStep | None = None
    ) -> Video:
        from diffusers.utils.torch_utils import randn_tensor

        network, scheduler = pipeline.transformer, pipeline.scheduler
        device = next(network.parameters()).device
        guided = sampling.guidance_scale > 1
        texts = [pipeline.encode_prompt(text) for text in (sample.prompt, sample.negative_prompt)[: 1 + guided]]
        dtype = texts[0][0].dtype
        frames, height, width = latent_sizes(sampling)
        generator = torch.Generator("cpu").manual_seed(sampling.seed)
        scheduler.set_timesteps(sampling.steps, device=device)
        shape = (1, pipeline.config["in_channels"], frames, height, width)
        latents = randn_tensor(shape, generator=generator, device=device, dtype=dtype) * scheduler.init_noise_sigma
        rope = rotary_tables(network.config, (frames, height // 2, width // 2), device, dtype)
        for step, timestep in enumerate(scheduler.timesteps):
            scaled = scheduler.scale_model_input(latents, timestep)
            # the original batches both branches: apart they give the same, in half of the memory
            noise, *unconditional = [
                network(
                    hidden_states=scaled, encoder_hidden_states=text, encoder_attention_mask=mask,
                    timestep=timestep[None], image_rotary_emb=rope, return_dict=False,
                )[0]
                for text, mask in texts
            ]  # fmt: skip
            for other in unconditional:
                noise = other + sampling.guidance_scale * (noise - other)
            latents = scheduler.step(noise, timestep, latents, generator=generator, return_dict=False)[0]
            if on_step is not None:
                on_step(step + 1)
        return Video.of(decoded(pipeline.decode, latents, sampling), latents)


def latent_sizes(sampling: Sampling) -> tuple[int, int, int]:
    """Frames, height and width of the latents."""
    time, rows, columns = COMPRESSION
    return (sampling.num_frames - 1) // time + 1, sampling.height // rows, sampling.width // columns


def load_text_encoder(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    """The encoder of MT5; the release's decoder is left unread."""
    from transformers import MT5EncoderModel

    with Loading(f"the text encoder in {folder}"):
        encoder, report = MT5EncoderModel.from_pretrained(
            folder, dtype=dtype, local_files_only=True, output_loading_info=True
        )
    if report["missing_keys"]:
        names = ", ".join(sorted(report["missing_keys"])[:3])
        raise AdapterError(f"{folder} lacks {names} of MT5's encoder; it must be a whole MT5: download it again")
    return encoder.eval()  # type: ignore[no-any-return]


def load_decoder(code: Path, vae: Path, device: str) -> Decode:
    """The causal autoencoder, by the original's own class: code that is not ours is run here."""
    sys.path.insert(0, str(code))
    try:
        original = importlib.import_module("opensora.models.causalvideovae")
    except ImportError as error:
        raise AdapterError(
            f"{code} cannot decode: {error}; it must be a checkout of Open-Sora-Plan v1.2.0 whose requirements are "
            "installed; install what is missing, or leave model.code_path out to judge latents"
        ) from error
    finally:
        sys.path.remove(str(code))
    wrapper = original.CausalVAEModelWrapper(str(vae))
    # float32: its rounding errors would be seen in every frame; tiles as in the release's sampling scripts
    autoencoder = wrapper.vae.to(device=device, dtype=torch.float32).eval()
    autoencoder.enable_tiling()
    autoencoder.tile_overlap_factor = 0.125
    autoencoder.tile_sample_min_size, autoencoder.tile_latent_min_size = 512, 64
    autoencoder.tile_sample_min_size_t, autoencoder.tile_latent_min_size_t = 29, 8

    def decode(latents: torch.Tensor) -> torch.Tensor:
        pixels: torch.Tensor = wrapper.decode(latents.float())
        return pixels

    return decode


def decoded(decode: Decode | None, latents: torch.Tensor, sampling: Sampling) -> torch.Tensor:
    """The pixels, from 0 to 1; none without a decoder."""
    if decode is None:
        return torch.empty(0, sampling.height, sampling.width, 3)
    pixels = decode(latents)[0, : sampling.num_frames].permute(0, 2, 3, 1)
    return (pixels / 2 + 0.5).clamp(0, 1)


def embed(pipeline: OpenSoraPlanPipeline, text: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The text as the network reads it, (1, 512, channels), and which of it is not padding."""
    device = next(pipeline.text_encoder.parameters()).device
    tokens = pipeline.tokenizer(
        text.lower().strip(), padding="max_length", max_length=TEXT_TOKENS, truncation=True, return_tensors="pt"
    ).to(device)
    return pipeline.text_encoder(tokens.input_ids, attention_mask=tokens.attention_mask)[0], tokens.attention_mask


def _part(network: torch.nn.Module, config: Mapping[str, Any]) -> Part:
    blocks = named_blocks(network, "transformer_blocks")
    return Part("transformer", network, blocks, LAYOUT, folder=".", config=config)
