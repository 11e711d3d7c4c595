"""What a script asks for, typed: the processors of the guide, and what each of them means in our words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, get_type_hints

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    StrictInt,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
    model_validator,
)
from typing_extensions import TypedDict

from llmc.config.explain import find_problems, problems_error
from llmc.config.words import choice
from llmc.export.mindie.types import Soc, Version, as_named
from llmc.plugin import Strict

ActMethod = Literal["minmax", "histogram", "mix"]
ANTI_OUTLIER = ("m3", "m4", "m6")
LINEAR = ("w8a8", "w8a8_dynamic", "w8a8_timestep")


class Settings(Strict):
    """Settings that refuse unknown arguments, and values of another type."""

    model_config = ConfigDict(strict=True)
    called: ClassVar[str] = "argument"

    if not TYPE_CHECKING:  # editors know the one that pydantic makes of the fields

        def __init__(self, **values: Any) -> None:
            try:
                super().__init__(**values)
            except ValidationError as error:
                name = type(self).__name__
                found = find_problems(error, values, type(self))
                raise problems_error([replace(one, keys=(name, *one.keys)) for one in found], None, name) from None


class M3ProcessorConfig(Settings):
    """AWQ: scale input channels by the power of their mean magnitude that gives the least output error."""


class M4ProcessorConfig(Settings):
    """Iterative smoothing: scale input channels by the square root of act over weight magnitudes."""


class M6Config(Settings):
    """The powers of flexible smoothing; one that is None is searched."""

    alpha: Annotated[float, Field(ge=0, le=1)] | None = None
    beta: Annotated[float, Field(ge=0, le=1)] | None = None


class M6ProcessorConfig(Settings):
    """Flexible smoothing: act magnitudes to the power alpha over weight magnitudes to the power beta."""

    cfg: M6Config = M6Config()


class QuantSettings(Settings):
    """How the range of acts is found."""

    act_method: ActMethod = "minmax"


class W8A8QuantConfig(QuantSettings):
    """One calibrated scale for each input."""


class W8A8TimeStepQuantConfig(QuantSettings):
    """A calibrated scale of each input for each denoising step."""


class W8A8DynamicQuantConfig(Settings):
    """A scale for each token, measured at run time: nothing of the acts is calibrated."""

    act_method: ActMethod = "minmax"

    @field_validator("act_method")
    @classmethod
    def _takes_whole_range(cls, act_method: ActMethod) -> ActMethod:
        if act_method != "minmax":
            raise ValueError(
                f"act_method is {act_method}; the scale of a token is its own largest magnitude, measured when it "
                "runs: write act_method='minmax', or choose w8a8 or w8a8_timestep"
            )
        return act_method


class LinearSettings(Settings):
    """Which linears stay float."""

    disable_names: Annotated[list[str], Field(strict=False)] = []


class W8A8ProcessorConfig(LinearSettings):
    """int8 weights, int8 acts with one scale for each input."""

    cfg: W8A8QuantConfig = W8A8QuantConfig()


class W8A8DynamicProcessorConfig(LinearSettings):
    """int8 weights, int8 acts with a scale for each token."""

    cfg: W8A8DynamicQuantConfig = W8A8DynamicQuantConfig()


class W8A8TimeStepProcessorConfig(LinearSettings):
    """int8 weights, int8 acts: measured in steps before `timestep_sep`, calibrated for each step from there on."""

    cfg: W8A8TimeStepQuantConfig = W8A8TimeStepQuantConfig()
    timestep_sep: Annotated[StrictInt, Field(ge=0, description="the first step with a static scale")]


class FA3ProcessorConfig(Settings):
    """Queries, keys and values of attention to int8, a calibrated scale for each head; beside w8a8_dynamic."""


class SaveProcessorConfig(Settings):
    """Where the export goes: one file of tensors, and one that describes them, as MindIE-SD reads them."""

    output_path: Annotated[Path, Field(strict=False, description="the folder to write to")]
    safetensors_name: str | None = None
    json_name: str | None = None
    save_type: list[str] = ["safe_tensor"]
    part_file_size: StrictInt | None = None
    mindie_version: Annotated[Version | None, BeforeValidator(as_named)] = None  # None: 2.3 beside fa3, else 3
    soc: Soc = "a2"

    @field_validator("output_path", mode="before")
    @classmethod
    def _is_named(cls, output_path: Any) -> Any:
        if output_path == "":
            raise ValueError("it is empty; name the folder to write to")
        return output_path

    @model_validator(mode="after")
    def _is_what_mindie_reads(self) -> SaveProcessorConfig:
        if self.save_type != ["safe_tensor"]:
            raise ValueError(
                f"save_type is {self.save_type}; MindIE-SD reads safetensors alone: write save_type=['safe_tensor']"
            )
        if self.part_file_size not in (None, 0):
            raise ValueError(
                f"part_file_size is {self.part_file_size}, and MindIE-SD reads one file: it looks for the name without "
                "a part number; write part_file_size=None"
            )
        for field, suffix in (("safetensors_name", ".safetensors"), ("json_name", ".json")):
            name = getattr(self, field)
            if name is not None and (Path(name).name != name or not name.endswith(suffix)):
                raise ValueError(f"{field} is {name!r}; it is the name of a file in output_path that ends in {suffix}")
        if self.output_path.exists() and not self.output_path.is_dir():
            raise ValueError(f"output_path is {self.output_path}, which is a file; name a folder")
        return self


class Processors(TypedDict, total=False):
    """What is done to the model, by the guide's names; in which order they are written does not matter."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)  # type: ignore[misc]

    m3: M3ProcessorConfig
    m4: M4ProcessorConfig
    m6: M6ProcessorConfig
    w8a8: W8A8ProcessorConfig
    w8a8_dynamic: W8A8DynamicProcessorConfig
    w8a8_timestep: W8A8TimeStepProcessorConfig
    fa3: FA3ProcessorConfig
    save: SaveProcessorConfig


class SessionConfig(Settings):
    """One call of `quant_model`."""

    processor_cfg_map: Processors
    calib_data: Annotated[list[Any], Field(strict=False)] | None = Field(None, repr=False)
    device: str = Field(
        "cpu", pattern=r"^(auto|cpu|(cuda|npu)(:\d+)?)$", description="auto, cpu, cuda, npu, or one such as npu:1"
    )

    @field_validator("processor_cfg_map", mode="before")
    @classmethod
    def _knows_every_processor(cls, asked: Any) -> Any:
        known = get_type_hints(Processors)
        if not isinstance(asked, dict):
            raise ValueError(f"a dictionary is needed, found {type(asked).__name__}; its keys: {', '.join(known)}")
        for name, processor in asked.items():
            if name not in known:
                raise ValueError(f"it has the processor {name}; {choice(name, known)}")
            if not isinstance(processor, known[name] | dict):
                kind, needed = type(processor).__name__, known[name].__name__
                raise ValueError(f"{name} is of the type {kind}; write {name!r}: {needed}(...)")
        return asked

    @field_validator("calib_data", mode="wrap")
    @classmethod
    def _knows_its_model(cls, calib_data: Any, check: ValidatorFunctionWrapHandler) -> Any:
        if not isinstance(calib_data, list | tuple | None):
            found = type(calib_data).__name__
            raise ValueError(f"it is of the type {found}; give the list that safe_torch_load read, or a part of it")
        return calib_data if isinstance(calib_data, list) else check(calib_data)  # a copy would have forgotten it

    @model_validator(mode="after")
    def _is_one_recipe(self) -> SessionConfig:
        asked = self.processor_cfg_map.keys()
        linear, smoothing = (sorted(asked & set(names)) for names in (LINEAR, ANTI_OUTLIER))
        if len(linear) != 1:
            found = " and ".join(linear) or "none of them"
            raise ValueError(f"processor_cfg_map has {found}; give one of {', '.join(LINEAR)}")
        if len(smoothing) > 1:
            raise ValueError(f"processor_cfg_map has {' and '.join(smoothing)}; give at most one of them")
        if "fa3" in asked and linear != ["w8a8_dynamic"]:
            raise ValueError(f"processor_cfg_map has fa3 beside {linear[0]}; it goes together with w8a8_dynamic only")
        save = self.processor_cfg_map.get("save")
        if "fa3" in asked and save is not None and (save.mindie_version not in (None, "2.3") or save.soc == "a5"):
            raise ValueError(
                f"save is for MindIE-SD {save.mindie_version or '2.3'} on {save.soc}, and fa3 is int8 attention, which "
                "only MindIE-SD 2.3 on a2 and a3 has: write mindie_version='2.3' and soc='a2' in SaveProcessorConfig, "
                "or leave both out"
            )
        return self

    @model_validator(mode="after")
    def _has_static_steps(self) -> SessionConfig:
        by_step, steps = self.processor_cfg_map.get("w8a8_timestep"), steps_told(self.calib_data or ())
        if by_step is not None and 0 < steps <= by_step.timestep_sep:
            raise ValueError(
                f"timestep_sep of W8A8TimeStepProcessorConfig is {by_step.timestep_sep}, and calib_data has the calls "
                f"of {steps} denoising steps (num_inference_steps of the pipeline), so that none would have a static "
                f"scale: write timestep_sep={steps // 2} or another number below {steps}, for which the dump that is "
                "there will do; or dump the calls of more steps, or take w8a8_dynamic"
            )
        return self

    @property
    def linear(self) -> W8A8ProcessorConfig | W8A8DynamicProcessorConfig | W8A8TimeStepProcessorConfig:
        """How linears are quantized."""
        return next(self.processor_cfg_map[name] for name in LINEAR if name in self.processor_cfg_map)  # type: ignore[literal-required, no-any-return]


def steps_told(calib_data: Sequence[Any]) -> int:
    """Of how many denoising steps the calls are; 0 where they do not tell."""
    told = (call.get("timestep_idx") for call in calib_data if isinstance(call, dict))
    return 1 + max((step for step in told if isinstance(step, int)), default=-1)
