"""What a model adapter says: how to load, where the blocks are, which linears share an input, how names translate."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from llmc.errors import AdapterError
from llmc.plugin import Plugin, Strict, discover

# (name in this model, name in the target) of modules or bare parameters; `{}` stands for one block number
Renames = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class LinearGroup:
    """Linears of one block that read the same tensor, and modules of that block that could absorb a scale of it.

    `fold` names an affine norm, a modulated norm, or the linears whose outputs are linearly that tensor; empty: nobody.
    """

    linears: tuple[str, ...]
    fold: tuple[str, ...] = ()


Layout = Mapping[str, tuple[LinearGroup, ...]]  # block class name -> its groups
Expert = Literal["high_noise", "low_noise"] | None


@dataclass(frozen=True)
class Part:
    """One quantizable network of a pipeline: its module, its blocks in running order, each block class's groups."""

    name: str
    module: torch.nn.Module
    blocks: Sequence[tuple[str, torch.nn.Module]]
    layout: Layout
    expert: Expert = None  # which half of the schedule it denoises, if not all
    lasting: frozenset[str] = frozenset()  # block classes of which later blocks read every output, not only the last

    def groups(self, block: torch.nn.Module) -> tuple[LinearGroup, ...]:
        """The groups of `block` whose linears this variant really has (T2V has no image projections)."""
        here = {name for name, _ in block.named_modules()}
        groups = (
            LinearGroup(tuple(n for n in group.linears if n in here), tuple(n for n in group.fold if n in here))
            for group in self.layout[type(block).__name__]
        )
        return tuple(group for group in groups if group.linears)


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


@dataclass(frozen=True)
class PipelineIndex:
    """What a folder's model_index.json says: the pipeline's class, the components that are there, and its settings."""

    folder: Path
    class_name: str
    components: frozenset[str]
    settings: Mapping[str, Any]

    def config(self, component: str) -> Mapping[str, Any]:
        """The component's config.json; empty if it has none."""
        path = self.folder / component / "config.json"
        found: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return found

    def __str__(self) -> str:
        told = [name for name in sorted(self.components) if name.startswith("transformer_")]
        told += [f"{name} {value}" for name, value in self.settings.items() if value not in (None, False)]
        return f"{self.class_name}{' with ' if told else ''}{', '.join(told)}"


@dataclass(frozen=True)
class Video:
    """What a pipeline made: frames (frames, height, width, 3) as uint8, and the final latent."""

    frames: torch.Tensor
    latents: torch.Tensor


@dataclass(frozen=True)
class StoredNetwork:
    """A network from outside of its pipeline's folder: its configuration, and its tensors by this model's names."""

    config: Mapping[str, Any]
    dtype: torch.dtype  # of most of its elements
    tensors: Mapping[str, Callable[[], torch.Tensor]]


OnStep = Callable[[int], None]  # called after each denoising step with the index of the next one


class ModelAdapter(Plugin):
    """How one family of models is loaded, taken apart and run."""

    pipeline: ClassVar[str]  # the class that a fitting folder's model_index.json names
    renames: ClassVar[Mapping[str, Renames]] = {}  # target -> table
    branches: ClassVar[tuple[str, ...]] = ("cond", "uncond")  # the calls of one step, in order, when guidance is on
    needs_image: ClassVar[bool] = False
    takes_image: ClassVar[bool] = False  # a sample may have an image, and need not
    needs_last_image: ClassVar[bool] = False
    release: ClassVar[str] = ""  # the table of `renames` that leads to the original release; empty: it is not read
    optional: ClassVar[frozenset[str]] = frozenset()  # the settings of Sampling with a default that it understands

    @classmethod
    def fits(cls, index: PipelineIndex) -> bool:
        """Whether this adapter reads such a folder; families that share a pipeline class tell them apart here."""
        return index.class_name == cls.pipeline

    @classmethod
    def check_sampling(cls, height: int, width: int, num_frames: int) -> list[str]:
        """What is wrong with sizes that this family cannot make, each in one sentence; empty if nothing is."""
        return []

    @abstractmethod
    def load(self, path: Path, torch_dtype: str, device: str) -> Any:
        """The float pipeline, ready to run on `device`."""

    @abstractmethod
    def skeleton(self, path: Path) -> list[Part]:
        """The parts as the folder's configuration describes them, without any weights (on the meta device)."""

    @abstractmethod
    def parts(self, pipeline: Any) -> list[Part]:
        """The networks of `pipeline` that can be quantized."""

    @abstractmethod
    def generate(self, pipeline: Any, sample: Sample, sampling: Sampling, on_step: OnStep | None = None) -> Video:
        """Run the pipeline once."""

    def skeleton_with(self, configs: Mapping[str, Mapping[str, Any]], path: Path) -> list[Part]:
        """The skeleton, with other configurations in the place of the folder's own; only if there is a `release`."""
        raise AdapterError(f"{self.name} reads no network from outside of its folder; leave model.transformer out")

    def load_with(self, stored: Mapping[str, StoredNetwork], path: Path, torch_dtype: str, device: str) -> Any:
        """The pipeline, with other networks in the place of the folder's own; only if there is a `release`."""
        raise AdapterError(f"{self.name} reads no network from outside of its folder; leave model.transformer out")

    def call_counts(self, pipeline: Any, sampling: Sampling) -> dict[str, int]:
        """How many times each part is called for one sample."""
        calls = sampling.steps * (len(self.branches) if sampling.guidance_scale > 1 else 1)
        return {part.name: calls for part in self.parts(pipeline)}


def flow_shift(pipeline: Any) -> float:
    """How far the pipeline's schedule is shifted towards noise; 1 if it says nothing of it."""
    config = pipeline.scheduler.config
    return float(config.get("flow_shift") or config.get("shift") or 1.0)


def schedule_of(pipeline: Any) -> dict[str, float]:
    """What a pipeline says of its noise schedule: its shift, and where the high-noise expert hands over."""
    boundary = pipeline.config.get("boundary_ratio")
    return {"shift": flow_shift(pipeline)} | ({} if boundary is None else {"boundary": float(boundary)})


def named_blocks(module: torch.nn.Module, *lists: str) -> list[tuple[str, torch.nn.Module]]:
    """The blocks of `module` in running order, each with its full name."""
    return [
        (f"{name}.{index}", block)
        for name in lists
        for index, block in enumerate(module.get_submodule(name).children())
    ]


def pipeline_index(folder: Path) -> PipelineIndex:
    """What a diffusers folder says of itself."""
    path = folder / "model_index.json"
    if not path.is_file():
        inside = ", ".join(sorted(entry.name for entry in folder.iterdir())[:6]) if folder.is_dir() else "not a folder"
        raise AdapterError(
            f"{folder} has no model_index.json (found: {inside or 'nothing'}).\n"
            "  A model is a diffusers pipeline folder, with model_index.json beside transformer/, vae/ and the rest."
        )
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        class_name = str(entries["_class_name"])
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise AdapterError(f"{path} is not a diffusers model index: {error}; save the pipeline again") from error
    own = {name: value for name, value in entries.items() if not name.startswith("_")}
    components = frozenset(name for name, value in own.items() if isinstance(value, list) and any(value))
    settings = {name: value for name, value in own.items() if not isinstance(value, list)}
    return PipelineIndex(folder, class_name, components, settings)


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


def quiet_libraries() -> None:
    """Keep the loading chatter of diffusers and transformers out of a run's own words."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()
        library.utils.logging.set_verbosity_error()


def stored_dtype(folder: Path) -> torch.dtype:
    """The type that most elements of a component's weights are stored in."""
    from safetensors import safe_open

    sizes: Counter[str] = Counter()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():  # noqa: SIM118 - it is a method of the file, which is no mapping
                header = weights.get_slice(name)
                sizes[header.get_dtype()] += prod(header.get_shape())
    if not sizes:
        raise AdapterError(f"{folder} holds no *.safetensors file: save the model with safe_serialization")
    names = {"BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}
    return names.get(sizes.most_common(1)[0][0], torch.float32)
