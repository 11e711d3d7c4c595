"""The `model` section: what holds for every family, and the settings that some adapters bring."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError, create_model, field_validator, model_validator
from pydantic.fields import FieldInfo

from llmc.config.numbers import Number
from llmc.config.paths import InputPath
from llmc.config.words import choice, shown
from llmc.models.base import ModelAdapter, adapters
from llmc.plugin import Strict


class LoraConfig(Strict):
    """One LoRA that is merged into the model before anything else."""

    path: InputPath = Field(
        description="the LoRA's safetensors file, or a folder with one, or with several and their index"
    )
    strength: Number = Field(1.0, ge=-1000, le=1000, description="what its change of the weights is multiplied by")
    part: str | None = Field(
        None, description="the network that it is for, such as transformer_2, where experts have one each; default: all"
    )


class ModelBase(Strict):
    """The model to quantize."""

    type: str = Field(description="the model family's adapter, such as WanI2V; `llmc list` names them")
    path: InputPath = Field(description="folder of the float model: a diffusers pipeline (with model_index.json), or "
                            "what the page of its family says")  # fmt: skip
    torch_dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="auto: as the weights are stored"
    )
    transformer: InputPath | None = Field(
        None,
        description="a checkpoint that takes the place of the folder's transformer, in diffusers' names or those of "
        "its original repository, such as flux1-dev.safetensors",
    )
    transformer_2: InputPath | None = Field(None, description="the same for the low-noise expert")
    lora: tuple[LoraConfig, ...] = Field((), max_length=100, description="LoRAs to merge first, in order")
    text_encoder: InputPath | None = Field(
        None, description="other weights for the text encoder: a .pth of Wan's own release, or a Hugging Face folder"
    )
    image_encoder: InputPath | None = Field(
        None, description="other weights for the image encoder: a .pth of Wan's own release, or a Hugging Face folder"
    )

    @field_validator("type")
    @classmethod
    def _has_an_adapter(cls, name: str) -> str:
        if name not in adapters():
            raise ValueError(f"no model adapter is called {shown(name)}; {choice(name, adapters())}")
        return name

    @model_validator(mode="after")
    def _fits_the_adapter(self) -> ModelBase:
        for name in self.model_fields_set - set(settings_of(adapters()[self.type])):
            if owners := [kind for kind, cls in adapters().items() if name in settings_of(cls)]:
                raise ValueError(f"{name} is a setting of {' and '.join(owners)}, not of {self.type}; leave it out")
        try:
            self.adapter()
        except ValidationError as error:
            raise ValueError("; ".join(str(e.get("ctx", {}).get("error", e["msg"])) for e in error.errors())) from error
        return self

    def networks(self) -> dict[str, Path]:
        """The networks that are read from elsewhere than the folder."""
        given = {"transformer": self.transformer, "transformer_2": self.transformer_2}
        return {name: path for name, path in given.items() if path is not None}

    def encoder_weights(self) -> dict[str, Path]:
        """Component -> where its weights are read from, other than the model's folder."""
        given = {"text_encoder": self.text_encoder, "image_encoder": self.image_encoder}
        return {name: path for name, path in given.items() if path is not None}

    def adapter(self) -> ModelAdapter:
        """The adapter that `type` names, with its settings."""
        cls = adapters()[self.type]
        return cls(**{name: getattr(self, name) for name in settings_of(cls)})


def settings_of(adapter: type[ModelAdapter]) -> list[str]:
    """The keys of `model` that are settings of this adapter."""
    return [name for name in adapter.model_fields if name != "name"]


def _model_config() -> type[ModelBase]:
    """`ModelBase` with the settings of every adapter; their paths are looked for where all inputs are."""
    fields: dict[str, tuple[Any, FieldInfo]] = {}
    for cls in adapters().values():
        for name in settings_of(cls):
            field = cls.model_fields[name]
            if name in fields and fields[name][1] != field:
                raise TypeError(f"{cls.__name__} gives the setting {name} another meaning than another adapter does")
            fields[name] = (InputPath | None if field.annotation == Path | None else field.annotation, field)
    return create_model("ModelConfig", __base__=ModelBase, __doc__=ModelBase.__doc__, **fields)  # type: ignore[call-overload,no-any-return]


if TYPE_CHECKING:
    ModelConfig = ModelBase
else:
    ModelConfig = _model_config()
