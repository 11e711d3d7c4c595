"""The whole configuration, typed. The YAML is validated straight into `Config`; unknown keys are refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, PrivateAttr, StrictInt, field_validator, model_validator

from llmc.algorithms.base import Algorithm
from llmc.config.document import Source
from llmc.config.model import ModelConfig
from llmc.config.numbers import MAX_LISTED, ByteCount, Glob, Seed
from llmc.config.paths import OutputPath
from llmc.config.quant import QuantConfig
from llmc.config.samples import CalibConfig, EvalConfig
from llmc.config.save import SaveConfig
from llmc.eval.metrics.base import Metric
from llmc.files.numbers import MOST_BLOCKS
from llmc.log import visible
from llmc.models.base import ModelAdapter
from llmc.models.samples import Sample, Sampling
from llmc.plugin import Strict
from llmc.policy.attention import AttentionPolicy, AttentionRule
from llmc.policy.rules import Policy, Rule, parse_block_ids
from llmc.section import Section

WITHOUT_EFFECT: dict[str, Any] = {
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
        return calib.sampling(calib.sample_steps, seed + sample, calib.sample_shift, calib.denoising_step_list)

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
        return tuple(self.eval.sampling(steps, seed, shift, listed) for seed in seeds)

    def metrics(self) -> tuple[Metric, ...]:
        """How what is generated is compared; of the default, images get what can tell of one frame."""
        given = self.eval.metrics if self.eval is not None else ()
        videos = not self.model.adapter().makes_images
        return tuple(metric for metric in given if videos or metric.least_frames == 1)

    def fingerprint(self, *but: str) -> str:
        """What tells this work from other work, wherever its output goes: sha256 over all sections, `but` for some."""
        work = self.model_dump(mode="json", exclude={**WITHOUT_EFFECT, **dict.fromkeys(but, True)})
        if "save" not in but:
            work["save"] = self.save.fingerprinted()
        return hashlib.sha256(json.dumps(work, sort_keys=True).encode()).hexdigest()
