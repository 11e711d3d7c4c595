"""The `calib` and `eval` sections: samples, and how pictures or videos are made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, StrictBool, StrictInt, field_validator

from llmc.calib.budget import FEW, HUGE, JUDGED, LARGE
from llmc.calib.samples import read_samples
from llmc.config.numbers import MAX_LISTED, MAX_STEPS, Frames, Number, Prompt, Seed, Side, Steps
from llmc.config.paths import InputPath, OutputPath
from llmc.eval.gate_settings import Gate
from llmc.eval.metrics.base import Metric
from llmc.models.base import ModelAdapter
from llmc.models.samples import Sample, Sampling, Task
from llmc.plugin import Strict, by_name
from llmc.section import Section

if TYPE_CHECKING:
    AnyMetric = Metric
else:
    AnyMetric = by_name("llmc.eval.metrics", Metric)


class SamplesConfig(Strict):
    """Samples, and the size of what is generated from them."""

    name: Task = Field(
        description="what a sample is: i2v, a prompt with a first frame; t2v, a prompt alone; t2i, one for an image; "
        "i2i, one with an image to change"
    )
    download: StrictBool = Field(False, description="False: nothing is ever downloaded")
    path: InputPath = Field(
        description="folder with samples.json, or msModelSlim's index.jsonl, and the images it names; or that file"
    )
    bs: StrictInt = Field(1, description="videos at a time: 1")
    n_samples: StrictInt | None = Field(
        None, ge=1, description="use only the first samples of the folder; default: all"
    )
    target_height: Side = Field(description="height of the video in pixels")
    target_width: Side = Field(description="width of the video in pixels")
    num_frames: Frames | None = Field(None, description="frames of the video; left out where the model makes images")
    guidance_scale: Number = Field(
        ge=0, le=1000, description="weight of classifier-free guidance; up to 1 switches it off"
    )
    guidance_scale_2: Number | None = Field(
        None,
        ge=0,
        le=1000,
        description="the same for the low-noise expert of a model that has one; default: guidance_scale",
    )
    sample_shift: Number | None = Field(
        None,
        ge=0.01,
        le=100,
        description="shift of the schedule towards noise; default in calib: the model's, in eval: calib's",
    )
    denoising_step_list: tuple[StrictInt, ...] | None = Field(
        None,
        min_length=1,
        max_length=MAX_STEPS,
        description="the steps of a distilled model out of 1000, before the shift, such as [1000, 750, 500, 250]; "
        "default in calib: the model's scheduler, in eval: calib's",
    )

    @field_validator("download")
    @classmethod
    def _nothing_is_downloaded(cls, download: bool) -> bool:
        if download:
            raise ValueError(
                "download is True; llmc downloads nothing: put the samples into `path`, and write `download: False`"
            )
        return download

    @field_validator("denoising_step_list")
    @classmethod
    def _steps_go_down(cls, steps: tuple[int, ...] | None) -> tuple[int, ...] | None:
        falls = steps is None or list(steps) == sorted(set(steps), reverse=True)
        if steps is not None and not (falls and 1 <= steps[-1] <= steps[0] <= 1000):
            raise ValueError(
                f"denoising_step_list is {list(steps)}; it must fall from at most 1000 to at least 1, each step once; "
                "write the list that the distilled model was trained for"
            )
        return steps

    def samples(self, adapter: ModelAdapter, prompts: tuple[str, ...] = ()) -> list[Sample]:
        """The samples that the section names."""
        return read_samples(self.path, self.name in ("i2v", "i2i"), self.n_samples, prompts, adapter.needs_last_image)

    def sampling(self, steps: int, seed: int, shift: float | None, listed: tuple[int, ...] | None) -> Sampling:
        """How a video of this size is made in so many steps, from the noise of a seed."""
        return Sampling(
            height=self.target_height,
            width=self.target_width,
            num_frames=self.num_frames or 1,
            steps=steps,
            guidance_scale=self.guidance_scale,
            seed=seed,
            guidance_scale_2=self.guidance_scale_2,
            shift=shift,
            denoising_step_list=listed,
        )

    @field_validator("bs")
    @classmethod
    def _one_at_a_time(cls, bs: int) -> int:
        if bs != 1:
            raise ValueError(f"bs is {bs}; videos are generated one at a time: write `bs: 1`")
        return bs


class CalibConfig(SamplesConfig):
    """What the network is observed on."""

    sample_steps: Steps = Field(description="denoising steps of the float run; all of them are observed")
    seed: Seed | None = Field(None, description="seed of the initial noise; default: base.seed")
    prompts: tuple[Prompt, ...] = Field(
        (), max_length=MAX_LISTED, description="prompts that replace those of samples.json, in order and in turn"
    )
    max_rows: StrictInt = Field(
        2048, ge=16, le=1_000_000, description="act rows kept of each group of linears, to search and to check on"
    )
    max_calls: Annotated[StrictInt, Field(ge=1)] | Literal["auto"] | None = Field(
        "auto",
        description="how many calls of each denoising network are observed, spread over samples, steps and branches; "
        f"null: all; auto: all, but {FEW} of a network of {LARGE / 1e9:g} billion weights and more whose acts are not "
        "static",
    )
    streamed: StrictBool = Field(
        False, description="True: record the calls, then observe one block at a time; slower, and in far less memory"
    )


class EvalConfig(SamplesConfig):
    """Which videos are generated in the end, and how they are judged."""

    eval_pos: tuple[Literal["pretrain", "transformed", "fake_quant", "real_quant"], ...] = Field(
        ("fake_quant",),
        description="what makes videos: pretrain, the float model; transformed, after the methods, before rounding; "
        "fake_quant, rounded; real_quant, rounded and multiplied in int8 or fp8 by the device itself; if it is empty, "
        "nothing is judged, as if there was no `eval`",
    )
    type: Literal[Section.VIDEO_GEN] = Field(Section.VIDEO_GEN, description="the kind of evaluation")
    output_video_path: OutputPath | None = Field(
        None, description="folder of the videos; default: `videos` in the run folder"
    )
    steps: Steps | None = Field(None, description="denoising steps; default: calib.sample_steps")
    seeds: tuple[Seed, ...] | None = Field(
        None, min_length=1, max_length=MAX_LISTED, description="a video of each sample for each; default: [base.seed]"
    )
    metrics: tuple[AnyMetric, ...] = Field(
        ("psnr", "ssim", "vmaf", "temporal_error"),
        validate_default=True,
        max_length=20,
        description="how videos are compared with the float model's; an image by those that can tell of one frame",
    )
    max_calls: Annotated[StrictInt, Field(ge=1)] | Literal["auto"] | None = Field(
        "auto",
        description="how many float calls of each denoising network every position is fed with, spread over samples, "
        f"steps and branches; null: all; auto: all, but {JUDGED} of a network of {LARGE / 1e9:g} billion weights and "
        "more",
    )
    baseline_videos: StrictBool | Literal["auto"] = Field(
        "auto",
        description="also make the videos of the baseline; False: only feed it with the float calls; auto: True, but "
        f"not of a network of {HUGE / 1e9:g} billion weights and more",
    )
    baseline: Literal["RTN"] | None = Field(
        "RTN", description="also judge plain rounding, to see what the methods gain; null: do not"
    )
    gate: Gate | None = Field(
        None, description="what the quantized model must not be worse than; else a run exits with 3"
    )
    fps: StrictInt = Field(16, ge=1, le=1000, description="frames per second of the files written")
