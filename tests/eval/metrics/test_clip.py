"""Metrics that see through CLIP, DINO and their like, held to the libraries' own classes."""

from pathlib import Path

import numpy as np
import pytest
import torch

from llmc.eval.metrics.clip_score import ClipScore
from llmc.eval.metrics.clip_similarity import ClipSimilarity
from llmc.eval.metrics.subject_consistency import SubjectConsistency

MEAN, DEVIATION = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def normed(frames: torch.Tensor, mean: tuple[float, ...], deviation: tuple[float, ...]) -> torch.Tensor:
    """Frames that have the network's size already."""
    return torch.from_numpy(((frames.numpy() / 255 - mean) / deviation).transpose(0, 3, 1, 2)).float()


def unit(vectors: torch.Tensor) -> np.ndarray:
    found = vectors.detach().numpy().astype(np.float64)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


def test_the_score_is_clips_own_logit_of_prompt_and_frame(clip, tiny_clip: Path):
    from transformers import CLIPModel, CLIPTokenizer

    frames, prompt = clip(3, 32, 32), "a red kite"
    model = CLIPModel.from_pretrained(tiny_clip).eval()
    words = CLIPTokenizer.from_pretrained(tiny_clip)(prompt, return_tensors="pt")
    logits = model(pixel_values=normed(frames, MEAN, DEVIATION), **words).logits_per_image[:, 0]
    expected = (logits / model.logit_scale.exp() * 100).clamp(min=0).tolist()
    score = ClipScore(model=tiny_clip).score(frames, frames, prompt)
    assert score.per_frame == pytest.approx(expected, abs=1e-3)
    assert score.value == pytest.approx(sum(expected) / 3, abs=1e-3)


def test_the_score_needs_a_prompt_and_cuts_a_long_one(clip, tiny_clip: Path):
    frames = clip(2, 32, 32)
    assert "no prompt" in ClipScore(model=tiny_clip).score(frames, frames).why
    assert ClipScore(model=tiny_clip).score(frames, frames, "far and away " * 50).value is not None


def test_similarity_is_the_cosine_of_what_clip_sees_in_both(clip, tiny_clip: Path):
    from transformers import CLIPModel

    reference, candidate = clip(3, 32, 32), clip(3, 32, 32, noise=60)
    model = CLIPModel.from_pretrained(tiny_clip).eval()
    seen = []
    for frames in (reference, candidate):
        pooled = model.vision_model(normed(frames, MEAN, DEVIATION)).pooler_output
        seen.append(unit(model.visual_projection(pooled)))
    expected = [100 * float(r @ c) for r, c in zip(*seen, strict=True)]
    metric = ClipSimilarity(model=tiny_clip)
    assert metric.score(reference, candidate).per_frame == pytest.approx(expected, abs=1e-3)
    assert metric.score(reference, reference).value == pytest.approx(100.0)


def test_a_wide_frame_is_seen_by_its_middle(clip, tiny_clip: Path):
    wide = clip(2, 32, 60)
    metric = ClipSimilarity(model=tiny_clip)
    changed = wide.clone()
    changed[:, :, :10] = 0
    assert metric.score(wide, changed).value == pytest.approx(100.0)


def test_consistency_through_a_vision_transformer_is_of_its_class_tokens(clip, tiny_dino: Path):
    from transformers import ViTModel

    frames = clip(4, 32, 32, noise=30)
    model = ViTModel.from_pretrained(tiny_dino, add_pooling_layer=False).eval()
    tokens = unit(model(normed(frames, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))).last_hidden_state[:, 0])
    expected = [max(0, tokens[t] @ tokens[0]) / 2 + max(0, tokens[t] @ tokens[t - 1]) / 2 for t in range(1, 4)]
    score = SubjectConsistency(model=tiny_dino).score(frames, frames)
    assert score.per_frame == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize("metric", [ClipScore, ClipSimilarity, SubjectConsistency])
def test_a_folder_without_a_network_gives_no_figure_and_says_what_is_missing(metric, clip, tmp_path: Path):
    score = metric(model=tmp_path).score(clip(3), clip(3), "a wave")
    assert score.value is None and "config.json" in score.why and str(tmp_path) in score.why


@pytest.mark.parametrize("metric", [ClipScore, ClipSimilarity, SubjectConsistency])
def test_files_that_make_no_sense_end_no_run(metric, clip, tmp_path: Path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"nothing")
    score = metric(model=tmp_path).score(clip(3), clip(3), "a wave")
    assert score.value is None and "cannot be loaded" in score.why


def test_a_prompt_is_refused_by_what_only_sees(clip, tiny_dino: Path):
    assert "only CLIP reads prompts" in ClipScore(model=tiny_dino).score(clip(2), clip(2), "a wave").why
