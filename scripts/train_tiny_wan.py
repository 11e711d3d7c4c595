"""Makes the small trained Wan2.1 image-to-video model that ships in `assets/tiny_wan_i2v` from synthetic clips alone.

    python scripts/train_tiny_wan.py                 # all stages; each resumes from its checkpoint in build/tiny_wan
    python scripts/train_tiny_wan.py autoencoder transformer outliers
    python scripts/train_tiny_wan.py judge           # prints the figures of the README

A clip shows one coloured shape moving over a gradient at a constant speed. Only the text tells the direction, so a
video that matches the true clip proves that the model reads both the text and the first frame.
"""

from __future__ import annotations

import argparse
import os

# Threads that spin while they wait make tiny models many times slower on shared cores; read when torch is imported.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import copy
import json
import math
import shutil
import string
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanImageToVideoPipeline, WanTransformer3DModel
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Generator, Tensor, nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    CLIPVisionModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Settings:
    """The command line."""

    work: Path  # checkpoints
    assets: Path
    scenes: int
    steps: int
    strength: float
    guidance: float
    sampling_steps: int


# --- clips

COLOURS = {
    "red": (1.0, 0.1, 0.1),
    "green": (0.1, 0.9, 0.2),
    "blue": (0.15, 0.25, 1.0),
    "yellow": (1.0, 0.95, 0.1),
    "white": (1.0, 1.0, 1.0),
    "black": (0.0, 0.0, 0.0),
    "purple": (0.6, 0.1, 0.8),
    "orange": (1.0, 0.55, 0.05),
}
SHAPES = ("circle", "square", "triangle")
DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}
NEGATIVE_PROMPT = "blurry, low quality, static"
FRAMES, SIZE = 17, 64
STEP = 2 / SIZE  # image widths per frame: 8 pixels per latent frame


@dataclass(frozen=True)
class Scenes:
    """A batch of first frames: everything about a clip except where it goes."""

    shape: Tensor  # (n,) index into SHAPES
    colour: Tensor  # (n,) index into COLOURS
    gradient: Tensor  # (n, 2, 3) the two background colours
    angle: Tensor  # (n,) of the gradient
    radius: Tensor  # (n,) in image widths
    start: Tensor  # (n, 2) centre of the shape, x and y

    @classmethod
    def sample(cls, count: int, generator: Generator) -> Scenes:
        def uniform(*shape: int) -> Tensor:
            return torch.rand(*shape, generator=generator)

        return cls(
            shape=torch.randint(len(SHAPES), (count,), generator=generator),
            colour=torch.randint(len(COLOURS), (count,), generator=generator),
            gradient=0.8 * uniform(count, 2, 3),
            angle=2 * math.pi * uniform(count),
            radius=0.14 + 0.08 * uniform(count),
            start=0.25 + 0.5 * uniform(count, 2),
        )

    def centres(self, direction: Tensor, frames: int) -> Tensor:
        """Of the shape in every frame, (n, frames, 2), in image widths."""
        velocity = STEP * torch.tensor(list(DIRECTIONS.values()))[direction]
        return self.start[:, None] + velocity[:, None] * torch.arange(frames)[None, :, None]

    def render(self, direction: Tensor, frames: int = FRAMES, size: int = SIZE) -> Tensor:
        """Videos (n, 3, frames, size, size) in [-1, 1]; `direction` (n,) indexes DIRECTIONS."""
        grid = (torch.arange(size) + 0.5) / size
        y, x = torch.meshgrid(grid, grid, indexing="ij")
        angle = self.angle[:, None, None]
        ramp = (((x - 0.5) * angle.cos() + (y - 0.5) * angle.sin() + 0.7) / 1.4)[:, None]
        first, second = self.gradient[:, :, :, None, None].unbind(1)
        background = first * (1 - ramp) + second * ramp

        centre = self.centres(direction, frames)
        dx = x - centre[:, :, 0, None, None]
        dy = y - centre[:, :, 1, None, None]
        radius = self.radius[:, None, None, None]
        distances = torch.stack(
            (
                torch.hypot(dx, dy) - radius,
                torch.maximum(dx.abs(), dy.abs()) - 0.9 * radius,
                torch.maximum(math.sqrt(3) / 2 * dx.abs() + dy / 2, -dy) - 0.6 * radius,
            )
        )
        distance = distances[self.shape, torch.arange(len(self.shape))]
        alpha = torch.sigmoid(-2 * size * distance)[:, None]  # an edge about one pixel wide
        colour = torch.tensor(list(COLOURS.values()))[self.colour][:, :, None, None, None]
        return 2 * torch.lerp(background[:, :, None], colour, alpha) - 1

    def prompts(self, direction: Tensor) -> list[str]:
        colours, directions = list(COLOURS), list(DIRECTIONS)
        return [
            f"a {colours[c]} {SHAPES[s]} moving {directions[d]}"
            for c, s, d in zip(self.colour, self.shape, direction, strict=True)
        ]


def sample_directions(count: int, generator: Generator) -> Tensor:
    return torch.randint(len(DIRECTIONS), (count,), generator=generator)


# --- training


@dataclass(frozen=True)
class Schedule:
    """One training run: AdamW, a short warm-up and a cosine down to 2 % of the learning rate."""

    name: str
    steps: int
    learning_rate: float
    weight_decay: float
    averaging: float  # decay of the moving average of the weights; 0 for none

    def rate(self, step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * step / self.steps))
        return self.learning_rate * min(1.0, (step + 1) / 50) * (0.02 + 0.98 * cosine)


Loss = Callable[[Generator], Tensor]


def train(model: nn.Module, average: nn.Module, loss: Loss, plan: Schedule, work: Path) -> None:
    """Minimizes `loss`, keeping a moving average of the weights in `average`; resumes where it was cut off."""
    checkpoint = work / f"{plan.name}.pt"
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.99), weight_decay=plan.weight_decay, fused=True)
    parts = {"model": model, "average": average, "optimizer": optimizer}
    first, log = 0, []
    if checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        for name, part in parts.items():
            part.load_state_dict(saved[name])
        first, log = saved["step"], saved["log"]

    begun, recent = time.monotonic(), []
    for step in range(first, plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(step)
        # A generator per step, so that a resumed run sees the batches of an uninterrupted one.
        value = loss(torch.Generator().manual_seed(1_000_000 + step))
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay = min(plan.averaging, (1 + step) / (10 + step))
        with torch.no_grad():
            for mean, weight in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(weight, 1 - decay)
        recent.append(value.item())
        if (step + 1) % 100 == 0 or step + 1 == plan.steps:
            log.append((step + 1, sum(recent) / len(recent)))
            recent = []
            print(f"{plan.name} step {step + 1} loss {log[-1][1]:.5f} {time.monotonic() - begun:.0f} s", flush=True)
            state = {name: part.state_dict() for name, part in parts.items()}
            torch.save(state | {"step": step + 1, "log": log}, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").replace(checkpoint)


def psnr(videos: Tensor, truth: Tensor, peak: float = 2.0) -> float:
    """Mean over the videos, in dB."""
    error = (videos - truth).square().flatten(1).mean(1)
    return (10 * torch.log10(peak**2 / error)).mean().item()


# --- autoencoder


def build_autoencoder() -> AutoencoderKLWan:
    """4x4 pixels and 4 frames to 16 numbers, started as an image autoencoder that repeats its latents in time.

    With the usual initialization it stays near 15 dB. Here only the current tap of each causal convolution is random,
    and the ones that change the frame rate start as a copy, so what is learnt on single frames holds for clips at once.
    """
    sizes = {"base_dim": 24, "z_dim": 16, "dim_mult": [1, 1, 2], "num_res_blocks": 1}
    scales = {"temperal_downsample": [True, True], "scale_factor_spatial": 4, "scale_factor_temporal": 4}
    autoencoder = AutoencoderKLWan(**sizes, **scales)
    for name, module in autoencoder.named_modules():
        if not isinstance(module, nn.Conv2d | nn.Conv3d):
            continue
        nn.init.zeros_(module.bias)
        if "time_conv" in name:
            copies = module.out_channels // module.in_channels
            nn.init.normal_(module.weight, std=0.1 / math.sqrt(3 * module.in_channels))
            module.weight.data[:, :, -1, 0, 0] += torch.eye(module.in_channels).repeat(copies, 1)
        elif isinstance(module, nn.Conv3d):
            nn.init.zeros_(module.weight)
            now = torch.empty_like(module.weight[:, :, -1])
            module.weight.data[:, :, -1] = nn.init.kaiming_normal_(now, nonlinearity="linear")
        else:
            nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
    autoencoder.decoder.conv_out.weight.data.mul_(0.3)
    return autoencoder


def decode_unclamped(autoencoder: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """`autoencoder.decode` without its final clamp to [-1, 1], which kills the gradient of every saturated pixel."""
    autoencoder.clear_cache()
    latents = autoencoder.post_quant_conv(latents)
    chunks = []
    for frame in range(latents.shape[2]):
        autoencoder._conv_idx = [0]
        cache = {"feat_cache": autoencoder._feat_map, "feat_idx": autoencoder._conv_idx, "first_chunk": frame == 0}
        chunks.append(autoencoder.decoder(latents[:, :, frame : frame + 1], **cache))
    autoencoder.clear_cache()
    return torch.cat(chunks, 2)


def crop_clips(count: int, frames: int, size: int, generator: Generator) -> Tensor:
    """Crops near the shape, where the details are, and random in time where fewer frames are asked for."""
    scenes, direction = Scenes.sample(count, generator), sample_directions(count, generator)
    videos = scenes.render(direction)
    first = torch.randint(FRAMES - frames + 1, (count,), generator=generator)
    middle = SIZE * scenes.centres(direction, FRAMES)[torch.arange(count), first + frames // 2]
    corner = middle - size / 2 + size * (torch.rand(count, 2, generator=generator) - 0.5)
    corner = corner.clamp(0, SIZE - size).long()
    places = zip(videos, first.tolist(), corner.tolist(), strict=True)
    return torch.stack([video[:, t : t + frames, y : y + size, x : x + size] for video, t, (x, y) in places])


def train_autoencoder(settings: Settings) -> None:
    """Learns single frames first, which is cheap, then short and whole clips."""
    torch.manual_seed(0)
    autoencoder = build_autoencoder()
    unseen = crop_clips(8, FRAMES, SIZE, torch.Generator().manual_seed(11))
    phases = (
        (Schedule("autoencoder_frames", 800, 1.5e-3, weight_decay=0, averaging=0), 16, 1),
        (Schedule("autoencoder_short_clips", 1000, 4e-4, weight_decay=0, averaging=0), 4, 9),
        (Schedule("autoencoder_clips", 150, 1e-4, weight_decay=0, averaging=0), 2, 17),
    )
    for plan, count, frames in phases:

        def loss(generator: Generator, count: int = count, frames: int = frames) -> Tensor:
            videos = crop_clips(count, frames, 32, generator)
            latents = autoencoder.encode(videos).latent_dist.mean
            return F.mse_loss(decode_unclamped(autoencoder, latents), videos)

        train(autoencoder, copy.deepcopy(autoencoder), loss, plan, settings.work)
        with torch.no_grad():
            rebuilt = autoencoder.decode(autoencoder.encode(unseen).latent_dist.mean).sample
        print(f"{plan.name}: {psnr(rebuilt, unseen):.2f} dB on unseen clips", flush=True)


def load_averaged(model: nn.Module, name: str, work: Path) -> None:
    """The weights that `train` left for the schedule of this name."""
    model.load_state_dict(torch.load(work / f"{name}.pt", weights_only=True)["average"])


# --- text, images, pipeline


def build_tokenizer() -> T5Tokenizer:
    """One token per word of the clip family, letters for all else; not trained, which is never repeatable."""
    sentences = ["a moving", *COLOURS, *SHAPES, *DIRECTIONS, NEGATIVE_PROMPT]
    words = sorted({word for sentence in sentences for word in sentence.replace(",", "").split()})
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(f"▁{word}", -1.0) for word in words]
    vocabulary += [(letter, -10.0) for letter in f"▁{string.ascii_letters}{string.digits}{string.punctuation}"]
    backend = Tokenizer(models.Unigram(vocabulary, unk_id=2))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return T5Tokenizer(tokenizer_object=backend, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", extra_ids=0)


def build_pipeline(work: Path) -> WanImageToVideoPipeline:
    """All components, the transformer untrained. The text and image encoders stay random: their features suffice."""
    autoencoder = build_autoencoder().eval()
    load_averaged(autoencoder, "autoencoder_clips", work)
    torch.manual_seed(1)
    text = UMT5Config(vocab_size=128, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4)
    width = {"hidden_size": 64, "projection_dim": 64, "intermediate_size": 128}
    image = CLIPVisionConfig(**width, num_hidden_layers=3, num_attention_heads=4, image_size=32, patch_size=8)
    transformer = WanTransformer3DModel(
        num_layers=4,
        num_attention_heads=4,
        attention_head_dim=32,
        ffn_dim=512,
        in_channels=36,  # noisy latents 16, frame mask 4, condition latents 16
        out_channels=16,
        text_dim=64,
        image_dim=64,
        added_kv_proj_dim=128,
    )
    pipeline = WanImageToVideoPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=UMT5EncoderModel(text).eval(),
        image_encoder=CLIPVisionModel(image).eval(),
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        vae=autoencoder,
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0),
        transformer=transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def to_images(frames: Tensor) -> list[Image.Image]:
    """Frames (n, 3, height, width) in [-1, 1]."""
    pixels = ((frames + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1)
    return [Image.fromarray(image.numpy()) for image in pixels]


# --- latents


@dataclass(frozen=True)
class Latents:
    """The clips as the transformer sees them, and the scale of the latents. Every scene goes in all four directions."""

    mean: Tensor  # (16,)
    std: Tensor  # (16,)
    clips: Tensor  # (scenes, directions, 16, 5, 16, 16)
    condition: Tensor  # (scenes, 16, 5, 16, 16) the first frame followed by grey ones
    image: Tensor  # (scenes, image tokens, 64)
    text: Tensor  # (scenes, directions) row of `texts`
    texts: Tensor  # (prompts, longest + 1, 64); the last two rows are the unconditional ones, the last token is padding


@torch.no_grad()
def encode_texts(pipeline: WanImageToVideoPipeline, prompts: list[str]) -> Tensor:
    """Embeddings cut behind the first padding token of the longest prompt; padding embeds to zeros."""
    embeddings = pipeline.encode_prompt(prompts, do_classifier_free_guidance=False, max_sequence_length=512)[0]
    longest = int(embeddings.abs().sum(2).count_nonzero(1).max())
    return embeddings[:, : longest + 1].contiguous()


@torch.no_grad()
def encode_latents(settings: Settings, batch: int = 10) -> None:
    """Precomputes what the transformer trains on."""
    pipeline, generator = build_pipeline(settings.work), torch.Generator().manual_seed(2)
    vae = pipeline.vae
    clips, conditions, images, prompts = [], [], [], []
    for index in range(0, settings.scenes, batch):
        group = Scenes.sample(batch, generator)
        for direction in range(len(DIRECTIONS)):
            towards = torch.full((batch,), direction)
            video = group.render(towards)
            clips.append(vae.encode(video).latent_dist.mode())
            prompts.append(group.prompts(towards))
        video[:, :, 1:] = 0
        conditions.append(vae.encode(video).latent_dist.mode())
        images.append(pipeline.encode_image(to_images(video[:, :, 0])))
        if index % 100 == 0:
            print(f"latents of scene {index}", flush=True)

    condition, image = torch.cat(conditions), torch.cat(images)
    raw = torch.stack(clips).unflatten(0, (-1, len(DIRECTIONS))).transpose(1, 2).flatten(0, 1)
    mean, std = raw.mean((0, 1, 3, 4, 5)), raw.std((0, 1, 3, 4, 5))
    scale = (std * std.max()).sqrt()  # fully whitened latents train worse
    shape = (16, 1, 1, 1)
    vocabulary = sorted({prompt for group in prompts for prompt in group})
    rows = torch.tensor([[vocabulary.index(prompt) for prompt in group] for group in prompts])
    latents = Latents(
        mean=mean,
        std=scale,
        clips=((raw - mean.view(shape)) / scale.view(shape)).half(),
        condition=((condition - mean.view(shape)) / scale.view(shape)).half(),
        image=image,
        text=rows.unflatten(0, (-1, len(DIRECTIONS))).transpose(1, 2).flatten(0, 1),
        texts=encode_texts(pipeline, [*vocabulary, "", NEGATIVE_PROMPT]),
    )
    torch.save(vars(latents), settings.work / "latents.pt")


def load_latents(work: Path) -> Latents:
    return Latents(**torch.load(work / "latents.pt", weights_only=True))


# --- transformer


class CollapsedPadding:
    """Cross-attention where one token stands for all padding of the 512 text tokens, weighted by a bias of log(count).

    Padding embeddings are identical, so this is exact, and several times cheaper than WanAttnProcessor.
    """

    def __init__(self, image_tokens: int, text_tokens: int) -> None:
        self.image_tokens = image_tokens
        self.bias = torch.zeros(1, text_tokens)
        self.bias[:, -1] = math.log(512 - text_tokens + 1)

    def __call__(self, attn: nn.Module, hidden: Tensor, context: Tensor, *_: None) -> Tensor:
        def heads(x: Tensor) -> Tensor:
            return x.unflatten(2, (attn.heads, -1)).transpose(1, 2)

        image, text = context[:, : self.image_tokens], context[:, self.image_tokens :]
        query = heads(attn.norm_q(attn.to_q(hidden)))
        text_key, image_key = attn.norm_k(attn.to_k(text)), attn.norm_added_k(attn.add_k_proj(image))
        mixed = F.scaled_dot_product_attention(query, heads(text_key), heads(attn.to_v(text)), attn_mask=self.bias)
        mixed = mixed + F.scaled_dot_product_attention(query, heads(image_key), heads(attn.add_v_proj(image)))
        return attn.to_out[0](mixed.transpose(1, 2).flatten(2))


def flow_matching_loss(network: nn.Module, latents: Latents, batch: int, generator: Generator) -> Tensor:
    """Velocity error; a tenth of the prompts is dropped for guidance.

    The noise levels are those of a schedule of shift 5, above the 3 of sampling: only where the noise hides the motion
    does the text matter.
    """
    scene = torch.randint(len(latents.clips), (batch,), generator=generator)
    direction = sample_directions(batch, generator)
    text = latents.text[scene, direction]
    unconditional = len(latents.texts) - 1 - torch.randint(2, (batch,), generator=generator)
    text = torch.where(torch.rand(batch, generator=generator) < 0.1, unconditional, text)

    clean = latents.clips[scene, direction].float()
    noise = torch.randn(clean.shape, generator=generator)
    uniform = torch.rand(batch, generator=generator)
    sigma = 5 * uniform / (1 + 4 * uniform)
    noisy = torch.lerp(clean, noise, sigma.view(-1, 1, 1, 1, 1))
    mask = torch.zeros_like(clean[:, :4])
    mask[:, :, 0] = 1
    velocity = network(
        hidden_states=torch.cat([noisy, mask, latents.condition[scene].float()], 1),
        timestep=1000 * sigma,
        encoder_hidden_states=latents.texts[text],
        encoder_hidden_states_image=latents.image[scene],
        return_dict=False,
    )[0]
    return F.mse_loss(velocity, noise - clean)


def look_away_from_padding(transformer: WanTransformer3DModel) -> None:
    """Starts cross-attention with queries opposite to the padding keys, lest 500 padding tokens drown six words."""
    embedder = transformer.condition_embedder.text_embedder
    for linear in (embedder.linear_1, embedder.linear_2):
        nn.init.zeros_(linear.bias)  # padding then embeds to zero, and its normalized key is the direction of the bias
    for block in transformer.blocks:
        nn.init.constant_(block.attn2.to_q.bias, 1.0)
        nn.init.constant_(block.attn2.to_k.bias, -0.05)


def train_transformer(settings: Settings) -> None:
    """Flow matching on the precomputed latents."""
    latents = load_latents(settings.work)
    averaged = build_pipeline(settings.work).transformer
    look_away_from_padding(averaged)
    model = copy.deepcopy(averaged)
    for block in model.blocks:
        block.attn2.set_processor(CollapsedPadding(latents.image.shape[1], latents.texts.shape[1]))
    plan = Schedule("transformer", settings.steps, 1.5e-3, weight_decay=0.01, averaging=0.998)
    train(model, averaged, lambda generator: flow_matching_loss(model, latents, 8, generator), plan, settings.work)


# --- outliers


@torch.no_grad()
def inject_outliers(transformer: WanTransformer3DModel, strength: float, channels: int = 6) -> None:
    """Gives a few channels the outliers of large models without changing the function.

    What multiplies a channel where it is made divides the weights that read it.
    """
    width = transformer.config.num_attention_heads * transformer.config.attention_head_dim
    generator = torch.Generator().manual_seed(0)
    time_proj, blocks = transformer.condition_embedder.time_proj, transformer.blocks

    def draw() -> Tensor:
        factor = torch.ones(width)
        chosen = torch.randperm(width, generator=generator)[:channels]
        factor[chosen] = strength * (0.5 + torch.rand(channels, generator=generator))
        return factor

    def modulate(shift: int, factor: Tensor) -> None:
        """Multiplies `norm(x) * (1 + scale) + shift`; time_proj is shared, so the factor is the same in every block."""
        scale = shift + 1
        for chunk in (shift, scale):
            rows = slice(chunk * width, (chunk + 1) * width)
            time_proj.weight[rows] *= factor[:, None]
            time_proj.bias[rows] *= factor
        for block in blocks:
            block.scale_shift_table[0, shift] *= factor
            block.scale_shift_table[0, scale] *= factor
            block.scale_shift_table[0, scale] += factor - 1

    attention, feed_forward = draw(), draw()
    modulate(0, attention)
    modulate(3, feed_forward)
    for block in blocks:
        this, cross = block.attn1, block.attn2
        for linear in (this.to_q, this.to_k, this.to_v):
            linear.weight /= attention
        block.ffn.net[0].proj.weight /= feed_forward

        factor = draw()
        block.norm2.weight *= factor
        block.norm2.bias *= factor
        cross.to_q.weight /= factor

        for values, reader in (([this.to_v], this.to_out[0]), ([cross.to_v, cross.add_v_proj], cross.to_out[0])):
            factor = draw()
            for linear in values:
                linear.weight *= factor[:, None]
                linear.bias *= factor
            reader.weight /= factor


def replace_entries(source: Path, target: Path) -> None:
    """Renames each entry of `source` into `target`, so that a reader never sees half a file; other entries stay."""
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(source.iterdir()):
        place, old = target / entry.name, source.parent / f"{source.name}.old"
        if place.exists():
            place.replace(old)
        entry.replace(place)
        if old.is_dir():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
    source.rmdir()


def save_pipeline(settings: Settings) -> None:
    """The variant with outliers is the pipeline's transformer; the clean one lies beside it, unlisted."""
    pipeline, latents = build_pipeline(settings.work), load_latents(settings.work)
    pipeline.vae.register_to_config(latents_mean=latents.mean.tolist(), latents_std=latents.std.tolist())
    load_averaged(pipeline.transformer, "transformer", settings.work)
    fresh = settings.work / "assets"
    shutil.rmtree(fresh, ignore_errors=True)
    pipeline.transformer.save_pretrained(fresh / "transformer_clean")
    inject_outliers(pipeline.transformer, settings.strength)
    pipeline.save_pretrained(fresh)
    replace_entries(fresh, settings.assets / "tiny_wan_i2v")


# --- samples


def save_samples(settings: Settings) -> None:
    """First frames and prompts of scenes that training never drew, for calibration and for evaluation."""
    # the seed of calib is one that draws every colour and shape, and no prompt of eval: methods that lean on the inputs
    # that they have seen (GPTQ) need all words and colours to have been there
    for name, seed, count in (("calib", 14, 12), ("eval", 43, 4)):
        direction = torch.arange(count) % len(DIRECTIONS)
        scenes = Scenes.sample(count, torch.Generator().manual_seed(seed))
        images = to_images(scenes.render(direction, frames=1, size=256)[:, :, 0])
        fresh = settings.work / name
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir()
        samples = []
        for image, prompt in zip(images, scenes.prompts(direction), strict=True):
            file = prompt.removeprefix("a ").replace(" ", "_") + ".png"
            image.save(fresh / file)
            samples.append({"image": file, "prompt": prompt, "negative_prompt": NEGATIVE_PROMPT})
        (fresh / "samples.json").write_text(json.dumps(samples, indent=2) + "\n")
        replace_entries(fresh, settings.assets / "wan_i2v" / name)


# --- judge


Generate = Callable[[Tensor, list[str]], Tensor]  # first frames and prompts to videos


def generator_of(pipeline: WanImageToVideoPipeline, settings: Settings) -> Generate:
    """Videos (n, 3, frames, height, width) in [-1, 1] from first frames (n, 3, height, width) and prompts."""
    steps = {"num_inference_steps": settings.sampling_steps, "guidance_scale": settings.guidance}
    size = {"height": SIZE, "width": SIZE, "num_frames": FRAMES}

    def generate(first: Tensor, prompts: list[str]) -> Tensor:
        videos = []
        for index, (image, prompt) in enumerate(zip(to_images(first), prompts, strict=True)):
            noise = torch.Generator().manual_seed(100 + index)
            asked = {"image": image, "prompt": prompt, "negative_prompt": NEGATIVE_PROMPT}
            videos.append(pipeline(**asked, **steps, **size, generator=noise, output_type="pt").frames[0])
        return 2 * torch.stack(videos).transpose(1, 2) - 1

    return generate


def fake_int8(x: Tensor) -> Tensor:
    """Symmetric, one scale per row."""
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-8) / 127
    return (x / scale).round().clamp(-127, 127) * scale


def block_linears(transformer: WanTransformer3DModel) -> dict[str, nn.Linear]:
    return {name: module for name, module in transformer.blocks.named_modules() if isinstance(module, nn.Linear)}


def observe_absmax(transformer: WanTransformer3DModel, run: Callable[[], Tensor]) -> dict[str, Tensor]:
    """Per input channel of each block linear, over one run."""
    linears = block_linears(transformer)
    absmax = {name: torch.zeros(linear.in_features) for name, linear in linears.items()}

    def watch(linear: nn.Linear, args: tuple[Tensor], seen: Tensor) -> None:
        torch.maximum(seen, args[0].abs().flatten(0, -2).amax(0), out=seen)

    hooks = [linear.register_forward_pre_hook(partial(watch, seen=absmax[name])) for name, linear in linears.items()]
    run()
    for hook in hooks:
        hook.remove()
    return absmax


@torch.no_grad()
def quantize_int8(transformer: WanTransformer3DModel, absmax: dict[str, Tensor] | None) -> WanTransformer3DModel:
    """W8A8 per channel and token; with `absmax`, smoothed first (SmoothQuant, arXiv 2211.10438, alpha 0.75)."""
    unsmoothed = ("ffn.net.2", "attn2.to_k", "attn2.to_v", "attn2.add_k_proj", "attn2.add_v_proj")
    quantized = copy.deepcopy(transformer)
    for name, linear in block_linears(quantized).items():
        smooth = torch.ones(linear.in_features)
        if absmax is not None and not name.endswith(unsmoothed):
            smooth = absmax[name].clamp_min(1e-5) ** 0.75 / linear.weight.abs().amax(0).clamp_min(1e-5) ** 0.25
        linear.weight.copy_(fake_int8(linear.weight * smooth))
        linear.register_forward_pre_hook(lambda _, args, smooth=smooth: (fake_int8(args[0] / smooth),))
    return quantized


def draw_curve(log: list[tuple[int, float]], file: Path) -> None:
    """The loss on a logarithmic axis with a line at each half, drawn with PIL."""
    width, height, margin = 640, 320, 40
    image = Image.new("RGB", (width, height), "white")
    pen = ImageDraw.Draw(image)
    values = [math.log2(loss) for _, loss in log]
    low, high, last = math.floor(min(values)), math.ceil(max(values)), log[-1][0]

    def place(step: int, value: float) -> tuple[float, float]:
        x = margin + (width - 2 * margin) * step / last
        return x, margin + (height - 2 * margin) * (high - value) / (high - low)

    for power in range(low, high + 1):
        pen.line([place(0, power), place(last, power)], fill="lightgrey")
        pen.text((2, place(0, power)[1] - 5), f"{2.0**power:.3g}", fill="black")
    pen.line([place(step, value) for (step, _), value in zip(log, values, strict=True)], fill="blue", width=2)
    pen.text((margin, 8), f"flow-matching loss, {last} steps; last {log[-1][1]:.4f}", fill="black")
    image.save(file)


def draw_samples(truth: Tensor, generated: Tensor, file: Path) -> None:
    """Each row: five frames of the true clip, then the same five of the generated one."""
    rows = []
    for pair in zip(truth, generated, strict=True):
        frames = [frame for video in pair for frame in video[:, ::4].unbind(1)]
        rows.append(torch.cat(frames, 2))
    to_images(torch.cat(rows, 1)[None])[0].save(file)


def judge(settings: Settings) -> None:
    """Prints the figures on eight unseen scenes and draws the pictures of the README."""
    folder = settings.assets / "tiny_wan_i2v"
    pipeline = WanImageToVideoPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    generate = generator_of(pipeline, settings)
    scenes, direction = Scenes.sample(8, torch.Generator().manual_seed(12)), torch.arange(8) % len(DIRECTIONS)
    opposite = direction ^ 1  # DIRECTIONS lists them in pairs
    truth, other_truth = scenes.render(direction), scenes.render(opposite)
    first, prompts = truth[:, :, 0], scenes.prompts(direction)

    with torch.no_grad():
        rebuilt = pipeline.vae.decode(pipeline.vae.encode(truth).latent_dist.mode()).sample
    generated, wrong = generate(first, prompts), generate(first, scenes.prompts(opposite))
    print(f"autoencoder to truth           {psnr(rebuilt, truth):6.2f} dB")
    print(f"first frame repeated to truth  {psnr(first[:, :, None].expand_as(truth), truth):6.2f} dB")
    print(f"generated to truth             {psnr(generated, truth):6.2f} dB")
    print(f"opposite prompt to truth       {psnr(wrong, truth):6.2f} dB")
    print(f"opposite prompt to its truth   {psnr(wrong, other_truth):6.2f} dB")
    print(f"opposite prompt to generated   {psnr(wrong, generated):6.2f} dB", flush=True)
    draw_samples(truth[:4], generated[:4], folder / "samples.png")
    checkpoint = settings.work / "transformer.pt"
    if checkpoint.exists():
        draw_curve(torch.load(checkpoint, weights_only=True)["log"], folder / "loss.png")

    clean = WanTransformer3DModel.from_pretrained(folder / "transformer_clean")
    for name, transformer in (("outliers", pipeline.transformer), ("clean", clean)):
        pipeline.register_modules(transformer=transformer)
        largest = (generate(first, prompts) - generated).abs().max()
        print(f"{name}: largest pixel difference to the variant with outliers {largest:.1e}")
        absmax = observe_absmax(transformer, lambda: generate(other_truth[:4, :, 0], scenes.prompts(opposite)[:4]))
        for method, statistics in (("round to nearest", None), ("SmoothQuant", absmax)):
            pipeline.register_modules(transformer=quantize_int8(transformer, statistics))
            print(f"{name}: W8A8 {method} to float {psnr(generate(first, prompts), generated):.2f} dB", flush=True)


STAGES: dict[str, Callable[[Settings], None]] = {
    "autoencoder": train_autoencoder,
    "latents": encode_latents,
    "transformer": train_transformer,
    "outliers": save_pipeline,
    "samples": save_samples,
    "judge": judge,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="stage", help=f"of {', '.join(STAGES)}; default: all")
    parser.add_argument("--work", type=Path, default=ROOT / "build/tiny_wan", help="checkpoints")
    parser.add_argument("--assets", type=Path, default=ROOT / "assets")
    parser.add_argument("--scenes", type=int, default=480, help="first frames to train on, each in four directions")
    parser.add_argument("--steps", type=int, default=4400, help="of the transformer's training")
    parser.add_argument("--strength", type=float, default=32.0, help="of the outliers: 0.5 to 1.5 times this")
    parser.add_argument("--guidance", type=float, default=1.5)
    parser.add_argument("--sampling-steps", type=int, default=20)
    arguments = vars(parser.parse_args())
    stages = arguments.pop("stages") or list(STAGES)
    if unknown := set(stages) - set(STAGES):
        parser.error(f"unknown stages: {', '.join(sorted(unknown))}; there are {', '.join(STAGES)}")

    settings = Settings(**arguments)
    settings.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(2)
    for stage in stages:
        print(f"== {stage}", flush=True)
        STAGES[stage](settings)


if __name__ == "__main__":
    main()
