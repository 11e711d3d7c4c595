"""FLUX.1 Kontext: FLUX.1's transformer, with the tokens of a given picture behind those of the noise."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch

from llmc.models.base import like
from llmc.models.flux import Flux
from llmc.models.index import PipelineIndex
from llmc.models.one_transformer import fitted
from llmc.models.samples import Sample, Sampling


class FluxKontext(Flux):
    """FLUX.1 Kontext, an image changed as a prompt says."""

    name: Literal["FluxKontext"] = "FluxKontext"  # type: ignore[assignment]
    known_as: ClassVar[tuple[str, ...]] = ("FLUX.1-Kontext", "FLUX.1-Kontext-dev")
    pipeline: ClassVar[str] = "FluxKontextPipeline"
    needs_image: ClassVar[bool] = True

    def inputs(self, index: PipelineIndex, network: torch.nn.Module, sampling: Sampling) -> dict[str, Any]:
        found = super().inputs(index, network, sampling)
        tokens, channels = found["hidden_states"].shape[1:]
        return found | {"hidden_states": like(1, 2 * tokens, channels), "img_ids": like(2 * tokens, 3)}

    def frames(self, pipeline: Any, sample: Sample, sampling: Sampling, **common: Any) -> Any:
        own = {
            "image": fitted(sample.image, sampling.width, sampling.height),
            "max_area": sampling.height * sampling.width,
            "_auto_resize": False,  # to the nearest of the sizes that it was trained on
        }
        return super().frames(pipeline, sample, sampling, **own, **common)
