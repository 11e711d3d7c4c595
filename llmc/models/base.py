"""What a model adapter says: how to load, where the blocks are, which linears share an input, how names translate."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, ClassVar

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


@dataclass(frozen=True)
class Part:
    """One quantizable network of a pipeline: its module, its blocks in running order, each block class's groups.

    `folder` is where it lies in the source, and `config` what its config.json says there; where they are left out, that
    is a folder of its name, and what diffusers would write.
    """

    name: str
    module: torch.nn.Module
    blocks: Sequence[tuple[str, torch.nn.Module]]
    layout: Layout
    folder: str = ""
    config: Mapping[str, Any] | None = None

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


class Sampling(Strict):
    """How the pipeline is run."""

    height: int
    width: int
    num_frames: int
    steps: int
    guidance_scale: float
    seed: int


@dataclass(frozen=True)
class Video:
    """What a pipeline made: frames (frames, height, width, 3) as uint8 (none if it cannot decode), the final latent."""

    frames: torch.Tensor
    latents: torch.Tensor

    @property
    def is_decoded(self) -> bool:
        return len(self.frames) > 0


OnStep = Callable[[int], None]  # called after each denoising step with the index of the next one


class ModelAdapter(Plugin):
    """How one family of models is loaded, taken apart and run; its settings are keys of the `model` section."""

    pipeline: ClassVar[str]  # the class that model_index.json (or the config.json of a lone network) names
    renames: ClassVar[Mapping[str, Renames]] = {}  # target -> table
    branches: ClassVar[tuple[str, ...]] = ("cond", "uncond")  # the calls of one step, in order, when guidance is on
    needs_image: ClassVar[bool] = False

    @classmethod
    def check_sampling(cls, height: int, width: int, num_frames: int) -> list[str]:
        """What is wrong with sizes that this family cannot make, each in one sentence; empty if nothing is."""
        return []

    def sources(self, path: Path) -> dict[str, Path]:
        """Everything that `load` reads, by the key of `model` that names it."""
        return {"path": path}

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


def flow_shift(pipeline: Any) -> float:
    """How far the pipeline's schedule is shifted towards noise; 1 if it says nothing of it."""
    config = pipeline.scheduler.config
    return float(config.get("flow_shift") or config.get("shift") or 1.0)


def named_blocks(module: torch.nn.Module, *lists: str) -> list[tuple[str, torch.nn.Module]]:
    """The blocks of `module` in running order, each with its full name."""
    return [
        (f"{name}.{index}", block)
        for name in lists
        for index, block in enumerate(module.get_submodule(name).children())
    ]


def pipeline_class(folder: Path) -> str:
    """The pipeline that a diffusers folder holds, or the network if it is the folder of one alone."""
    index = next((file for name in ("model_index.json", "config.json") if (file := folder / name).is_file()), None)
    if index is None:
        inside = ", ".join(sorted(entry.name for entry in folder.iterdir())[:6]) if folder.is_dir() else "not a folder"
        raise AdapterError(
            f"{folder} has no model_index.json (found: {inside or 'nothing'}).\n"
            "  A model is a diffusers pipeline folder, with model_index.json beside transformer/, vae/ and the rest."
        )
    try:
        name = json.loads(index.read_text(encoding="utf-8"))["_class_name"]
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise AdapterError(f"{index} names no class of diffusers: {error}; save the model again") from error
    return str(name)


def check_adapter(adapter: type[ModelAdapter], folder: Path) -> None:
    """Refuse a folder of another family, and name the adapter that would fit it."""
    found = pipeline_class(folder)
    if found == adapter.pipeline:
        return
    fitting = [name for name, other in adapters().items() if other.pipeline == found]
    advice = (
        f"write `model.type: {fitting[0]}`" if fitting else f"no adapter reads it; there are {', '.join(adapters())}"
    )
    raise AdapterError(
        f"{folder} holds a {found}, but {adapter.model_fields['name'].default} reads a {adapter.pipeline}: {advice}"
    )


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
