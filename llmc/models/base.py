"""What a model adapter says: which folders it reads, how they are loaded and run, their parts, how names translate."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import torch

from llmc.errors import AdapterError
from llmc.models.index import PipelineIndex, read_index
from llmc.models.parts import Part
from llmc.models.samples import OnStep, Sample, Sampling, Task, Video
from llmc.plugin import Plugin, discover
from llmc.renames import Original, Renames


class ModelAdapter(Plugin):
    """How one family of models is loaded, taken apart and run; its settings are keys of the `model` section."""

    pipeline: ClassVar[str]  # the class that model_index.json (or the config.json of a lone network) names
    known_as: ClassVar[tuple[str, ...]] = ()  # other names of it, or of the family of which a folder is one variant
    network: ClassVar[str] = ""  # diffusers' class of its networks, where that alone tells how they are taken apart
    renames: ClassVar[Mapping[str, Renames]] = {}  # target -> table
    branches: ClassVar[tuple[str, ...]] = ("cond", "uncond")  # the calls of one step, in order, when guidance is on
    needs_image: ClassVar[bool] = False
    takes_image: ClassVar[bool] = False  # a sample may have an image, and need not
    needs_last_image: ClassVar[bool] = False
    makes_images: ClassVar[bool] = False  # a video of one frame
    networks: ClassVar[tuple[str, ...]] = ()  # those that another checkpoint can stand in for, in names of `original`
    prompt_sized: ClassVar[frozenset[str]] = frozenset()  # those of `inputs` that are as long as the prompt, at most
    encoders: ClassVar[tuple[str, ...]] = ("text_encoder", "text_encoder_2", "text_encoder_3", "image_encoder")
    optional: ClassVar[frozenset[str]] = frozenset()  # the settings of Sampling with a default that it understands

    @classmethod
    def fits(cls, index: PipelineIndex) -> bool:
        """Whether this adapter reads such a folder; families that share a pipeline class tell them apart here."""
        return index.class_name == cls.pipeline

    @classmethod
    def release(cls, folder: Path) -> PipelineIndex | None:
        """What a folder in the layout of the family's own release would be as a pipeline; None if it is none."""
        return None

    @classmethod
    def check_sampling(cls, height: int, width: int, num_frames: int) -> list[str]:
        """What is wrong with sizes that this family cannot make, each in one sentence; empty if nothing is."""
        return []

    @classmethod
    def reach(cls, index: PipelineIndex) -> dict[str, int]:
        """The largest sizes that the networks of this very folder have positions for, by their keys; empty: any."""
        return {}

    @classmethod
    def original(cls, network: torch.nn.Module) -> Original:
        """The names and rows of the network in the repository that it comes from; empty if they are not known."""
        return ()

    @classmethod
    def knows_original(cls) -> bool:
        """Whether `original` says anything."""
        return cls.original.__func__ is not ModelAdapter.original.__func__  # type: ignore[attr-defined]

    @classmethod
    def tasks(cls) -> tuple[Task, ...]:
        """What a sample can be, and what is made of it; the usual one first."""
        if cls.makes_images:
            return ("i2i",) if cls.needs_image else ("t2i",)
        if cls.needs_image:
            return ("i2v",)
        return ("t2v", "i2v") if cls.takes_image else ("t2v",)

    def index(self, path: Path) -> PipelineIndex:
        """What the folder says of itself."""
        return pipeline_index(path)

    def sources(self, path: Path) -> dict[str, Path]:
        """Everything that `load` reads by itself, by the key of `model` that names it."""
        return {"path": path}

    @abstractmethod
    def load(self, path: Path, torch_dtype: str, device: str, **given: torch.nn.Module) -> Any:
        """The float pipeline, ready to run on `device`; networks that are given stand in for the folder's own."""

    @abstractmethod
    def skeleton(self, path: Path, **configs: Mapping[str, Any]) -> list[Part]:
        """The parts as their config.json describes them (the folder's, or another one that is given), without any
        weights (on the meta device)."""

    @abstractmethod
    def parts(self, pipeline: Any) -> list[Part]:
        """The networks of `pipeline` that can be quantized."""

    def part_of(self, network: torch.nn.Module) -> Part:
        """The part that a network of this family is, without its pipeline."""
        (part,) = self.parts(SimpleNamespace(transformer=network))
        return part

    def network_of(self, config: Mapping[str, Any]) -> Part | None:
        """The network, without weights, that a config.json in the family's own words describes; None: the words are
        those of diffusers, which builds it."""
        return None

    @abstractmethod
    def generate(self, pipeline: Any, sample: Sample, sampling: Sampling, on_step: OnStep | None = None) -> Video:
        """Run the pipeline once."""

    def inputs(self, index: PipelineIndex, network: torch.nn.Module, sampling: Sampling) -> dict[str, Any]:
        """What a call of one of its networks is given, but for switches: tensors on the meta device, floats in
        float32 whatever the network's type is. Empty: it is not known, and no cost can be told from it."""
        return {}

    def branches_of(self, sampling: Sampling) -> tuple[str, ...]:
        """The calls of one step, in order."""
        return self.branches if sampling.guidance_scale > 1 else ("cond",)

    def call_counts(self, pipeline: Any, sampling: Sampling) -> dict[str, int]:
        """How many times each part is called for one sample; a calibration leaves the pipeline at the last of them."""
        calls = scheduled_steps(pipeline, sampling.steps) * len(self.branches_of(sampling))
        return {part.name: calls for part in self.parts(pipeline)}


def scheduled_steps(pipeline: Any, steps: int) -> int:
    """How often a network is asked in so many steps: a scheduler of a higher order, such as Heun's, asks several times
    for each but the last."""
    order = getattr(getattr(pipeline, "scheduler", None), "order", 1)
    return int(order) * (steps - 1) + 1


def like(*shape: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    """A tensor of a shape and type (float32, if none is given), without values."""
    return torch.empty(shape, dtype=dtype or torch.float32, device="meta")


def multiples(height: int, width: int, of: int = 16) -> list[str]:
    """A sentence for each side that is not a multiple."""
    return [
        f"{name} is {size}; it must be a multiple of {of}, such as {max(of, round(size / of) * of)}"
        for name, size in (("target_height", height), ("target_width", width)) if size % of
    ]  # fmt: skip


def pipeline_index(folder: Path) -> PipelineIndex:
    """What a diffusers folder says of itself, or a release of a family's own, or the folder of a lone network."""
    if not (folder / "model_index.json").is_file():
        releases = (adapter.release(folder) for adapter in adapters().values())
        if (release := next((index for index in releases if index is not None), None)) is not None:
            return release
    return read_index(folder)


def check_adapter(adapter: type[ModelAdapter], folder: Path) -> None:
    """Refuse a folder of another family, and name the adapter that would fit it."""
    index = pipeline_index(folder)
    if adapter.fits(index):
        return
    fitting = [name for name, other in adapters().items() if other.fits(index)]
    advice = (
        f"write `model.type: {fitting[0]}`" if fitting else f"no adapter reads it; there are {', '.join(adapters())}"
    )
    name = adapter.model_fields["name"].default
    raise AdapterError(f"{folder} holds a {index}; {name} is for {adapter.summary().rstrip('.')}: {advice}")


def adapters() -> dict[str, type[ModelAdapter]]:
    """Every model adapter by name."""
    return discover("llmc.models", ModelAdapter)


def adapter_of(network: torch.nn.Module) -> ModelAdapter:
    """An adapter that takes apart a network of this class; those of several variants of one class all do it alike."""
    name = type(network).__name__
    for adapter in adapters().values():
        if adapter.network == name:
            return adapter.model_validate({})
    known = sorted({adapter.network for adapter in adapters().values() if adapter.network})
    raise AdapterError(
        f"the model is a {name}, and no adapter takes such a network apart by itself; there are {', '.join(known)}: "
        "hand over the transformer of a diffusers pipeline, not the pipeline, before it is wrapped or compiled"
    )


def quiet_libraries() -> None:
    """Keep the loading chatter of diffusers and transformers out of a run's own words."""
    assert torch.nn  # the module itself: they import parts of it, which what stands in for it does not have
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()
