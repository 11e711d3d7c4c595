"""The dialect as msModelSlim defines it, typed: every key it has for video and image models, and no other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictBool, StrictInt, StrictStr, field_validator, model_validator

from llmc.compat.modelslim.match import expand
from llmc.config.numbers import MAX_GLOB, Number
from llmc.plugin import Strict

APIVERSION = "multimodal_sd_modelslim_v1"
MOST_CHOICES = 1000  # that the braces of one glob may stand for, and those of all globs of a file


def _is_bounded(glob: str) -> str:
    if _choices(glob) > MOST_CHOICES:
        raise ValueError(f"its braces stand for more than {MOST_CHOICES} patterns; write * in place of some of them")
    return glob


def _choices(glob: str) -> int:
    return len(list(islice(expand(glob), MOST_CHOICES + 1)))


Globs = tuple[Annotated[StrictStr, Field(max_length=MAX_GLOB), AfterValidator(_is_bounded)], ...]
Subgraph = Literal["norm-linear", "linear-linear", "ov", "up-down"]
EVERY_SUBGRAPH: tuple[Subgraph, ...] = ("norm-linear", "linear-linear", "ov", "up-down")
Share = Annotated[Number, Field(ge=0, le=1)]


class QConfig(Strict):
    """The grid of one tensor, and how its range is found."""

    dtype: Literal["int8", "int4", "fp8_e4m3", "mxfp8", "mxfp4", "float"] = Field(description="the numbers of the grid")
    scope: Literal[
        "per_tensor", "per_token", "per_channel", "per_group", "per_block", "per_head", "dual_scale", "pd_mix"
    ] = Field(description="which values share a scale")
    symmetric: StrictBool = Field(description="True: zero lies on the middle code")
    method: StrictStr = Field(description="how the range is found, such as minmax")
    ext: dict[str, Any] = Field({}, description="settings of the method")

    def __str__(self) -> str:
        return f"{self.dtype} {self.scope} {'symmetric' if self.symmetric else 'asymmetric'} by {self.method}"


class LinearQConfig(Strict):
    """The grids of a linear."""

    act: QConfig = Field(description="the grid of what the linear reads")
    weight: QConfig = Field(description="the grid of its weight")


class LinearQuant(Strict):
    """Linears that are rounded to one pair of grids; the first of several that takes a layer has it."""

    type: Literal["linear_quant"] = "linear_quant"
    qconfig: LinearQConfig = Field(description="the grids, act and weight")
    include: Globs = Field(("*",), min_length=1, description="globs over the original repository's names")
    exclude: Globs = Field((), description="globs of layers that are left out, whatever include says")


class Smoothing(Strict):
    """What all processors that scale the inputs of linears have in common."""

    include: Globs | None = Field(None, description="globs of the layers that are smoothed; default: all")
    exclude: Globs | None = Field(None, description="globs of layers that are not")


class SmoothQuantProcessor(Smoothing):
    """SmoothQuant with one alpha."""

    type: Literal["smooth_quant"] = "smooth_quant"
    alpha: Share = Field(0.5, description="how much of the difficulty moves to the weights")
    symmetric: StrictBool = Field(True, description="True: inputs are scaled, not shifted")


class IterSmoothProcessor(Smoothing):
    """Iterative smoothing, m4."""

    type: Literal["iter_smooth"] = "iter_smooth"
    alpha: Share = Field(0.9, description="the power of the act's range")
    scale_min: Annotated[Number, Field(gt=0, le=1)] = Field(1e-5, description="no scale is smaller")
    symmetric: StrictBool = Field(True, description="True: inputs are scaled, not shifted")
    enable_subgraph_type: tuple[Subgraph, ...] = Field(EVERY_SUBGRAPH, description="where scales may go")


class FlexSettings(Smoothing):
    """What both flexible ones share."""

    alpha: Share | None = Field(None, description="the power of the act's range; left out: searched")
    beta: Share | None = Field(None, description="the power of the weight's range; left out: searched")
    enable_subgraph_type: tuple[Subgraph, ...] = Field(EVERY_SUBGRAPH, description="where scales may go")


class FlexSmoothProcessor(FlexSettings):
    """Flexible smoothing, m6."""

    type: Literal["flex_smooth_quant"] = "flex_smooth_quant"


class FlexAwqProcessor(FlexSettings):
    """Flexible smoothing whose search rounds by the grid it is given."""

    type: Literal["flex_awq_ssz"] = "flex_awq_ssz"
    qconfig: LinearQConfig = Field(description="the grids that the search rounds to: those of linear_quant")


class AwqProcessor(Smoothing):
    """AWQ, m3."""

    type: Literal["awq"] = "awq"
    weight_qconfig: QConfig = Field(description="the grid that the search rounds weights to")
    n_grid: StrictInt = Field(20, ge=2, description="exponents tried between 0 and 1")
    enable_subgraph_type: tuple[Subgraph, ...] = Field(EVERY_SUBGRAPH, description="where scales may go")


class FaDetails(Strict):
    """The grids of q, k and v apart."""

    fa_q: QConfig | None = Field(None, description="the grid of q")
    fa_k: QConfig | None = Field(None, description="the grid of k")
    fa_v: QConfig | None = Field(None, description="the grid of v")


class Fa3Quant(Strict):
    """Attention whose q, k and v are rounded."""

    type: Literal["fa3_quant"] = "fa3_quant"
    qconfig: QConfig | None = Field(None, description="the grid of q, k and v; default: int8 per_head")
    details: FaDetails | None = Field(None, description="a grid for each, in place of qconfig")
    include: Globs = Field(("*",), description="globs over attention modules")
    exclude: Globs = Field((), description="globs of attention modules that are left out")

    @model_validator(mode="after")
    def _says_one_thing(self) -> Fa3Quant:
        if self.qconfig is not None and self.details is not None:
            raise ValueError("qconfig and details are both given; q, k and v have one grid or one each: keep one")
        return self


class OnlineQuarot(Strict):
    """A rotation of q and k, which attention does not see."""

    type: Literal["online_quarot"] = "online_quarot"
    include: Globs | None = Field(None, description="globs over attention modules; default: all")
    exclude: Globs | None = Field(None, description="globs of attention modules that are left out")
    block_size: StrictInt = Field(-1, description="channels that are mixed; -1: a whole head")


class Group(Strict):
    """Processors that msModelSlim runs in one pass."""

    type: Literal["group"] = "group"
    configs: tuple[Processor, ...] = Field(min_length=1, description="processors in order")


Processor = Annotated[
    LinearQuant | SmoothQuantProcessor | IterSmoothProcessor | FlexSmoothProcessor | FlexAwqProcessor | AwqProcessor
    | Fa3Quant | OnlineQuarot | Group,
    Field(discriminator="type"),
]  # fmt: skip


def _globs(processors: Iterable[Processor]) -> Iterator[str]:
    for processor in processors:
        if isinstance(processor, Group):
            yield from _globs(processor.configs)
        else:
            yield from (*(processor.include or ()), *(processor.exclude or ()))


class Saver(Strict):
    """What is written."""

    type: Literal["mindie_format_saver"] = "mindie_format_saver"
    part_file_size: StrictInt = Field(0, ge=0, description="gigabytes of a file; 0: one file, all that MindIE-SD reads")

    @field_validator("part_file_size")
    @classmethod
    def _is_one_file(cls, size: int) -> int:
        if size:
            raise ValueError(
                f"part_file_size is {size}; MindIE-SD looks for one file and finds no parts: write `part_file_size: 0`"
            )
        return size


class DumpConfig(Strict):
    """The float run that processors learn from."""

    enable_dump: StrictBool = Field(True, description="False: there is none, for recipes that need no data")
    capture_mode: Literal["args"] = Field("args", description="args: what the transformer is called with")
    dump_data_dir: StrictStr = Field("", description="not read: calls are kept in the run folder, if at all")


class InferenceConfig(Strict):
    """How the float run is made, in the words of each family's own repository."""

    prompt: StrictStr | None = Field(None, min_length=1, description="what the videos show")
    task: StrictStr | None = Field(None, description="the model, such as t2v-14B; the folder says it too")
    size: Annotated[StrictStr, Field(pattern=r"^[0-9]{1,5}\*[0-9]{1,5}$")] | None = Field(
        None, description='width and height of the video, such as "1280*720"'
    )
    video_size: tuple[StrictInt, StrictInt] | None = Field(None, description="height and width of the video")
    height: StrictInt | None = Field(None, description="height of the picture")
    width: StrictInt | None = Field(None, description="width of the picture")
    frame_num: StrictInt | None = Field(None, description="frames of the video")
    video_length: StrictInt | None = Field(None, description="frames of the video")
    sample_steps: StrictInt | None = Field(None, description="denoising steps")
    infer_steps: StrictInt | None = Field(None, description="denoising steps")
    num_inference_steps: StrictInt | None = Field(None, description="denoising steps")
    sample_guide_scale: Number | None = Field(None, description="weight of classifier-free guidance")
    embedded_cfg_scale: Number | None = Field(None, description="the guidance that is an input of the network")
    guidance_scale: Number | None = Field(None, description="weight of guidance")
    sample_shift: Number | None = Field(None, description="shift of the schedule towards noise")
    flow_shift: Number | None = Field(None, description="shift of the schedule towards noise")
    base_seed: StrictInt | None = Field(None, description="seed of the initial noise; -1: llmc's own")
    seed: StrictInt | None = Field(None, description="seed of the initial noise")
    offload_model: StrictBool | None = Field(None, description="not used")
    convert_model_dtype: StrictBool | None = Field(None, description="not used")
    sample_solver: StrictStr | None = Field(None, description="not used: the model's own scheduler runs")
    model_resolution: StrictStr | None = Field(None, description="not used: the size says it")
    neg_prompt: StrictStr | None = Field(None, description="not used: samples have their own")
    cfg_scale: Number | None = Field(None, description="not used: the network is distilled")
    num_videos: StrictInt | None = Field(None, description="not used")
    batch_size: StrictInt | None = Field(None, description="not used")


class MultimodalConfig(Strict):
    """The float run."""

    dump_config: DumpConfig = Field(DumpConfig(), description="what is kept of it")
    inference_config: InferenceConfig | None = Field(None, description="how it is made")
    older_config: dict[str, Any] | None = Field(
        None, alias="model_config", description="the same, older: a free section; what is not known is said"
    )

    @model_validator(mode="after")
    def _says_one_thing(self) -> MultimodalConfig:
        if self.inference_config is not None and self.older_config is not None:
            raise ValueError("inference_config and model_config are both given; keep inference_config")
        return self


class Spec(Strict):
    """What is done."""

    runner: Literal["auto", "model_wise", "layer_wise"] = Field(
        "auto", description="layer_wise: one block at a time, in far less memory"
    )
    prior: tuple[dict[str, Any], ...] = Field((), description="earlier stages; not read")
    process: tuple[Processor, ...] = Field(min_length=1, description="processors in order")
    save: tuple[Saver, ...] = Field(min_length=1, max_length=1, description="the saver")
    dataset: StrictStr | None = Field(None, description="folder or file of calibration samples")
    multimodal_sd_config: MultimodalConfig = Field(MultimodalConfig(), description="the float run")

    @field_validator("process")
    @classmethod
    def _is_bounded(cls, process: tuple[Processor, ...]) -> tuple[Processor, ...]:
        if sum(map(_choices, _globs(process))) > MOST_CHOICES:
            raise ValueError(f"all its globs stand for more than {MOST_CHOICES} patterns; write * in place of some")
        return process

    @field_validator("prior")
    @classmethod
    def _is_one_stage(cls, prior: tuple[dict[str, Any], ...]) -> tuple[dict[str, Any], ...]:
        if prior:
            raise ValueError(
                "prior has stages of its own, and everything is done in one stage here; put their processors first in "
                "`process`, and leave prior out"
            )
        return prior


class Dialect(Strict):
    """A whole file."""

    apiversion: Literal["multimodal_sd_modelslim_v1"] = Field(description=APIVERSION)
    metadata: dict[str, Any] = Field({}, description="who verified what; not read")
    spec: Spec = Field(description="what is done")
