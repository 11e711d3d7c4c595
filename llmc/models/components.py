"""The components of a diffusers folder before the pipeline is put together: one that cannot be loaded is named."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

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
