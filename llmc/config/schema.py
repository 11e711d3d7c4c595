"""The whole configuration, typed. The YAML is validated straight into `Config`; unknown keys are refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PrivateAttr, StrictBool, StrictInt, field_validator, model_validator

from llmc.algorithms.base import Algorithm
from llmc.calib.budget import FEW, HUGE, JUDGED, LARGE
from llmc.calib.samples import read_samples
from llmc.config.document import Source
from llmc.config.model import ModelConfig
from llmc.config.numbers import MAX_LISTED, MAX_STEPS, ByteCount, Frames, Glob, Number, Prompt, Seed, Side, Steps
from llmc.config.paths import InputPath, OutputPath
from llmc.config.quant import QuantConfig
from llmc.config.save import SaveConfig
from llmc.eval.gate_settings import Gate
from llmc.eval.metrics.base import Metric
from llmc.files.numbers import MOST_BLOCKS
from llmc.log import visible
from llmc.models.base import ModelAdapter
from llmc.models.samples import Sample, Sampling, Task
from llmc.plugin import Strict, by_name
from llmc.policy.attention import AttentionPolicy, AttentionRule
from llmc.policy.rules import Policy, Rule, parse_block_ids
from llmc.section import Section

if TYPE_CHECKING:
    AnyMetric = Metric
else:
    AnyMetric = by_name("llmc.eval.metrics", Metric)


WITHOUT_EFFECT = {
    "base": {"run_dir", "memory", "resident"},
    "eval": {"output_video_path"},
    "save": True,  # put back without its folder, see SaveConfig.fingerprinted
}


class BaseConfig(Strict):
    """What holds for the whole run."""

    seed: Seed = Field(42, description="seed of everything that is drawn at random")
    run_dir: OutputPath | None = Field(
        None, description="folder of the run: log, report, cache; default: runs/<config>-<fingerprint>"
    )
    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|(cuda|npu)(:[0-9]{1,2})?)$",
        description="auto, cpu, cuda, npu, or one of several such as cuda:1",
    )
    memory: ByteCount | None = Field(
        None,
        description="memory of the host for what blocks give in each call, such as 8GB; what goes beyond lies in files "
        "of the run folder; default: half of what is free",
    )
    resident: Literal["auto"] | Annotated[StrictInt, Field(ge=0, le=MOST_BLOCKS)] = Field(
        "auto",
        description="how many blocks of each network keep their weights in memory once they came; those of the others "
        "are read whenever they work; auto: as many as fit into half of the memory that is free",
    )


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


class IgnoredLayersConfig(Strict):
    """Layers of the denoising networks that stay float."""

    block_ids: str | tuple[StrictInt | str, ...] = Field(
        (), max_length=MAX_LISTED, description='block numbers and ranges: "0,15-23" or [0, "15-23"]'
    )
    layer_names: tuple[Glob, ...] = Field(
        (),
        max_length=MAX_LISTED,
        description="globs over full layer names, with or without the part's name before them",
    )

    @field_validator("block_ids", mode="before")
    @classmethod
    def _one_number_is_a_list(cls, ids: Any) -> Any:
        return [ids] if isinstance(ids, int) else ids

    @field_validator("block_ids")
    @classmethod
    def _are_numbers(cls, ids: str | tuple[int | str, ...]) -> str | tuple[int | str, ...]:
        parse_block_ids(ids)
        return ids


class Config(Strict):
    """One run."""

    base: BaseConfig = Field(BaseConfig(), description="what holds for the whole run")
    model: ModelConfig = Field(description="the model to quantize")
    calib: CalibConfig | None = Field(
        None, description="what the network is observed on; may be left out where no method needs it"
    )
    eval: EvalConfig | None = Field(None, description="which videos are generated in the end; left out: none")
    quant: QuantConfig = Field(description="the methods, and each layer's grid")
    ignored_layers: IgnoredLayersConfig = Field(
        IgnoredLayersConfig(), description="layers of the denoising networks that stay float"
    )
    save: SaveConfig = Field(SaveConfig(), description="what is written for a runtime")
    _source: Source | None = PrivateAttr(None)

    @field_validator("base", "ignored_layers", "save", mode="before")
    @classmethod
    def _empty_is_left_out(cls, section: Any) -> Any:
        return {} if section is None else section

    @field_validator("eval")
    @classmethod
    def _without_positions_nothing_is_judged(cls, section: EvalConfig | None) -> EvalConfig | None:
        return section if section is not None and section.eval_pos else None

    @model_validator(mode="after")
    def _says_what_it_runs_on(self) -> Config:
        if self.calib is None and self.observes():
            raise ValueError("calib: the key is missing; give what the network is observed on, which this recipe needs")
        if self.calib is None and self.eval is not None and not (self.eval.steps or self.eval.denoising_step_list):
            raise ValueError("eval.steps: the key is missing; without `calib`, give the denoising steps of the videos")
        return self

    def model_post_init(self, context: Any) -> None:
        self._source = (context or {}).get("source")

    @property
    def source(self) -> Source | None:
        """The file it was read from, with the line of each key; None if it was built in code."""
        return self._source

    @property
    def run_dir(self) -> Path:
        """The folder of the run."""
        stem = visible(self._source.path.stem)[:100] if self._source else "run"
        return self.base.run_dir or Path("runs") / f"{stem}-{self.fingerprint()[:8]}"

    def recipe(self, section: Section = Section.VIDEO_GEN) -> tuple[Algorithm, ...]:
        """The methods in order."""
        return self.quant.sections()[section].method

    def policy(self, section: Section = Section.VIDEO_GEN) -> Policy:
        """Which layer gets which grid."""
        quant = self.quant.sections()[section]
        rules = tuple(Rule(rule.match, quant.rule_spec(rule)) for rule in quant.rules)
        ignored = self.ignored_layers if section == Section.VIDEO_GEN else IgnoredLayersConfig()
        return Policy(quant.default_spec(), rules, parse_block_ids(ignored.block_ids), ignored.layer_names)

    def attention_policy(self) -> AttentionPolicy | None:
        """Which attentions of the denoising networks are quantized, and how; None: none."""
        attention = self.quant.video_gen.attention
        if attention is None:
            return None
        ignored = parse_block_ids(self.ignored_layers.block_ids)
        rules = tuple(AttentionRule(rule.match, attention.rule_spec(rule)) for rule in attention.rules)
        return AttentionPolicy(
            attention.spec(), attention.include, attention.exclude, rules, ignored, attention.max_error, self.base.seed
        )

    def observes(self) -> bool:
        """Whether some network must be observed before it can be quantized; plain rounding looks at weights alone."""
        return any(network.observes() for network in self.quant.sections().values())

    def calib_samples(self, adapter: ModelAdapter) -> list[Sample]:
        """What the network is observed on; nothing without `calib`."""
        return [] if self.calib is None else self.calib.samples(adapter, self.calib.prompts)

    def calib_sampling(self, sample: int = 0) -> Sampling:
        """How the float run of a sample is made, for which there must be `calib`; another noise for each shows the
        network more of what it can meet."""
        calib = self.calib
        assert calib is not None
        seed = self.base.seed if calib.seed is None else calib.seed
        return _sampling(calib, calib.sample_steps, seed + sample, calib.sample_shift, calib.denoising_step_list)

    def eval_samplings(self) -> tuple[Sampling, ...]:
        """How the videos are generated: one for each seed; none without `eval`."""
        if self.eval is None:
            return ()
        listed, shift, steps = self.eval.denoising_step_list, self.eval.sample_shift, self.eval.steps
        if self.calib is not None:
            listed = listed or self.calib.denoising_step_list
            shift = self.calib.sample_shift if shift is None else shift
            steps = steps or (None if listed else self.calib.sample_steps)
        steps = steps or len(listed or ())
        seeds = self.eval.seeds or (self.base.seed,)
        return tuple(_sampling(self.eval, steps, seed, shift, listed) for seed in seeds)

    def metrics(self) -> tuple[Metric, ...]:
        """How what is generated is compared; of the default, images get what can tell of one frame."""
        given = self.eval.metrics if self.eval is not None else ()
        videos = not self.model.adapter().makes_images
        return tuple(metric for metric in given if videos or metric.least_frames == 1)

    def fingerprint(self, *but: str) -> str:
        """What tells this work from other work, wherever its output goes: sha256 over all sections, `but` for some."""
        work = self.model_dump(mode="json", exclude=WITHOUT_EFFECT | dict.fromkeys(but, True))
        if "save" not in but:
            work["save"] = self.save.fingerprinted()
        return hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()


def _sampling(
    samples: SamplesConfig, steps: int, seed: int, shift: float | None, listed: tuple[int, ...] | None
) -> Sampling:  # fmt: skip
    return Sampling(
        height=samples.target_height, width=samples.target_width, num_frames=samples.num_frames or 1,
        steps=steps, guidance_scale=samples.guidance_scale, seed=seed, guidance_scale_2=samples.guidance_scale_2,
        shift=shift, denoising_step_list=listed,
    )  # fmt: skip
