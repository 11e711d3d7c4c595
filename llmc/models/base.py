"""What a model adapter says: which folders it reads, how they are loaded and run, their parts, how names translate."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, Literal

import torch

from llmc.errors import AdapterError
from llmc.files.header import read_header
from llmc.files.json_text import read_object, read_object_if_there
from llmc.files.words import some
from llmc.finite import is_finite
from llmc.models.libraries import Loading
from llmc.models.parts import Part
from llmc.plugin import Plugin, Strict, discover
from llmc.renames import Original, Renames

Task = Literal["i2v", "t2v", "t2i", "i2i"]  # what a sample is, and what is made of it


class Sample(Strict):
    """One line of samples.json."""

    prompt: str
    negative_prompt: str = ""
    image: Path | None = None
    last_image: Path | None = None


class Sampling(Strict):
    """How the pipeline is run; None leaves what the model's folder says."""

    height: int
    width: int
    num_frames: int
    steps: int
    guidance_scale: float
    seed: int
    guidance_scale_2: float | None = None  # of the low-noise expert; None: the same
    shift: float | None = None  # of the schedule towards noise
    denoising_step_list: tuple[int, ...] | None = None  # of a distilled model: its steps of 1000, before the shift


PlannedSamples = Sequence[tuple[int, Sample, Sampling]]  # each with its place among those of all ranks


@dataclass(frozen=True)
class PipelineIndex:
    """What a folder's model_index.json says: the pipeline's class, the components that are there, and its settings."""

    folder: Path
    class_name: str
    components: Mapping[str, str]  # name -> class
    settings: Mapping[str, Any]
    files: Mapping[str, Path] = field(default_factory=dict)  # where components are that lie elsewhere than usual
    absent: frozenset[str] = frozenset()  # components that the pipeline could have, and this one does without
    is_release: ClassVar[bool] = False  # whether nothing lies as diffusers has it

    def config(self, component: str) -> Mapping[str, Any]:
        """The component's config.json; empty if it has none."""
        path = self.files.get(component, self.folder / component) / "config.json"
        return read_object_if_there(path, AdapterError) or {}

    def schedule(self) -> dict[str, float]:
        """What is said of the noise schedule: its shift, and where the high-noise expert hands over."""
        boundary = self.settings.get("boundary_ratio")
        return {"shift": self.shift()} | ({} if boundary is None else {"boundary": float(boundary)})

    def shift(self) -> float:
        """How far the schedule is shifted towards noise; 1 if nothing is said of it."""
        path = self.files.get("scheduler", self.folder / "scheduler") / "scheduler_config.json"
        with Loading(f"the schedule in {path}"):
            return shift_of(read_object_if_there(path, AdapterError) or {})

    def __str__(self) -> str:
        told = [name for name in sorted(self.components) if name.startswith("transformer_")]
        told += [f"{name} {value}" for name, value in self.settings.items() if value not in (None, False)]
        return f"{self.class_name}{' with ' if told else ''}{', '.join(told)}"


@dataclass(frozen=True)
class Video:
    """What a pipeline made: frames (frames, height, width, 3) as uint8 (none if it cannot decode), the final latent."""

    frames: torch.Tensor
    latents: torch.Tensor
    decoded_numbers: bool = True  # whether the decoder gave neither NaN nor infinity: in bytes both look like a colour

    @classmethod
    def of(cls, pixels: torch.Tensor, latents: torch.Tensor) -> Video:
        """From what a decoder gives, from 0 to 1; what is no number becomes black."""
        frames = (pixels.nan_to_num(0, 0, 0) * 255).round().to(torch.uint8)
        return cls(frames.cpu(), latents.float().cpu(), is_finite(pixels))

    @property
    def is_decoded(self) -> bool:
        return len(self.frames) > 0

    @property
    def is_finite(self) -> bool:
        """Whether neither NaN nor infinity came out of the network or the decoder."""
        return self.decoded_numbers and is_finite(self.latents)


OnStep = Callable[[int], None]  # called after each denoising step with the index of the next one


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


def shift_of(scheduler: Mapping[str, Any]) -> float:
    """How far the schedule of a scheduler's configuration is shifted towards noise; 1 if it says nothing of it."""
    return float(scheduler.get("flow_shift") or scheduler.get("shift") or 1.0)


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
    path = next((file for name in ("model_index.json", "config.json") if (file := folder / name).is_file()), None)
    if path is None:
        inside = ", ".join(sorted(entry.name for entry in folder.iterdir())[:6]) if folder.is_dir() else "not a folder"
        raise AdapterError(
            f"{folder} has no model_index.json (found: {inside or 'nothing'}).\n"
            "  A model is a diffusers pipeline folder, with model_index.json beside transformer/, vae/ and the rest."
        )
    entries = read_object(path, AdapterError)
    class_name = entries.get("_class_name")
    if not isinstance(class_name, str):
        found = f"names {class_name!r} as its class" if "_class_name" in entries else "names no class of diffusers"
        raise AdapterError(f"{path} {found}; a model that diffusers saved names one: save the model again")
    if path.name == "config.json":
        return PipelineIndex(folder, class_name, {}, {})
    own = {name: value for name, value in entries.items() if not name.startswith("_")}
    listed = {name: value for name, value in own.items() if isinstance(value, list)}
    if odd := [name for name, value in listed.items() if not (name.isidentifier() and _is_component(value))]:
        raise AdapterError(
            f"{path} says of {some(odd)} neither library and class nor twice null, or it is no name; a component has "
            "just those: save the model again"
        )
    components = {name: value[1] for name, value in listed.items() if any(value)}
    settings = {name: value for name, value in own.items() if name not in listed}
    return PipelineIndex(folder, class_name, components, settings, absent=frozenset(listed.keys() - components.keys()))


def _is_component(value: list[Any]) -> bool:
    """Whether a list of model_index.json is a library and a class, or says that a component is absent."""
    return value == [None, None] or (len(value) == 2 and all(isinstance(word, str) and word for word in value))


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


def stored_dtype(folder: Path) -> torch.dtype:
    """The type that most elements of a component's weights are stored in."""
    sizes: Counter[str] = Counter()
    for file in folder.glob("*.safetensors"):
        for tensor in read_header(file, AdapterError).tensors.values():
            sizes[tensor.dtype] += prod(tensor.shape)
    if not sizes:
        raise AdapterError(f"{folder} holds no *.safetensors file: save the model with safe_serialization")
    names = {"BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
    return names.get(sizes.most_common(1)[0][0], torch.float32)
