"""The components of a diffusers folder before the pipeline is put together: one that cannot be loaded is named."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch

from llmc.models.base import quiet_libraries
from llmc.models.encoders import empty_encoder
from llmc.models.index import PipelineIndex
from llmc.models.libraries import Loading
from llmc.models.networks import empty_network


def small_components(index: PipelineIndex, given: Collection[str]) -> dict[str, Any]:
    """Tokenizers, processors and schedulers, loaded as the pipeline would; of each network that is not `given` the
    configuration is tried."""
    quiet_libraries()
    import diffusers
    import transformers

    loaded = {}
    for name, class_name in index.components.items():
        made = getattr(diffusers, class_name, None) or getattr(transformers, class_name, None)
        if name in given or not isinstance(made, type):  # what is no class of either library finds its own way
            continue
        folder = index.folder / name
        if issubclass(made, diffusers.ModelMixin):
            empty_network(index.config(name))
        elif issubclass(made, transformers.PreTrainedModel):
            empty_encoder(class_name, index.config(name))
        elif hasattr(made, "from_pretrained"):
            with Loading(f"the {name} in {folder}"):
                readable = without_videos(made) if issubclass(made, transformers.ProcessorMixin) else made
                loaded[name] = readable.from_pretrained(folder, local_files_only=True)
    return loaded


def without_videos(processor: type[Any]) -> type[Any]:
    """A class of processors that can be loaded here: torchvision, which those for videos need, may not be there, and no
    pipeline shows an encoder a video."""
    from transformers.utils import is_torchvision_available

    if is_torchvision_available() or "video_processor" not in processor.get_attributes():
        return processor

    class Readable(processor):  # type: ignore[misc]
        @classmethod
        def get_attributes(cls) -> list[str]:
            return [name for name in super().get_attributes() if name != "video_processor"]

    Readable.__name__, Readable.__module__ = processor.__name__, processor.__module__  # as it is saved
    return Readable


def empty_component(index: PipelineIndex, name: str) -> torch.nn.Module | None:
    """What a component's config.json describes, on the meta device; None if that is no network."""
    quiet_libraries()
    import diffusers
    import transformers

    class_name, config = index.components.get(name, ""), index.config(name)
    made = getattr(diffusers, class_name, None) or getattr(transformers, class_name, None)
    if not config or not isinstance(made, type):
        return None
    if issubclass(made, diffusers.ModelMixin):
        return empty_network(config)
    return empty_encoder(class_name, config) if issubclass(made, transformers.PreTrainedModel) else None


def scheduler_of(index: PipelineIndex) -> Any:
    """The scheduler that a folder describes; what Wan's releases run with where it says nothing."""
    quiet_libraries()
    import diffusers

    folder = index.files.get("scheduler", index.folder / "scheduler")
    made = getattr(diffusers, index.components.get("scheduler", ""), None)
    if made is not None and (folder / "scheduler_config.json").is_file():
        with Loading(f"the schedule in {folder}"):
            return made.from_pretrained(folder, local_files_only=True)
    return diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=index.shift()
    )
