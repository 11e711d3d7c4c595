"""The `quant.video_gen.attention` section: queries, keys and values on a grid where they are multiplied."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, StrictBool, StrictInt, ValidationError, field_validator, model_validator

from llmc.config.numbers import MAX_LISTED, MAX_RULES, Glob, Number
from llmc.config.words import choice, shown
from llmc.numerics.attention_spec import AttentionSpec
from llmc.plugin import Strict

FORMATS = {"8": "int8", "e4m3": "fp8_e4m3", "mxfp8": "mxfp8", "mxfp4": "mxfp4"}


class AttentionRuleConfig(Strict):
    """What the attentions of a name are given; the first rule that matches one wins."""

    match: Glob = Field(description="glob over full names of attentions, such as `blocks.0.*`")
    bit: StrictInt | str | None = Field(None, description="of queries, keys and values; left out: as above")
    v_bit: StrictInt | str | None = Field(None, description="of values alone; left out: bit, or as above without one")
    granularity: Literal["per_head", "per_block"] | None = Field(None, description="left out: as above")
    static: StrictBool | None = Field(None, description="left out: as above")
    rotate: Literal["online", "inherit"] | None = Field("inherit", description="inherit: as above; null: not rotated")
    skip: StrictBool = Field(False, description="True: these attentions stay float")

    @field_validator("bit", "v_bit")
    @classmethod
    def _names_a_format(cls, bit: int | str | None) -> int | str | None:
        return named_format(bit)

    @model_validator(mode="after")
    def _says_one_thing(self) -> AttentionRuleConfig:
        if self.skip == bool(self.changes()):
            found = "has `skip: True` and a grid" if self.skip else "says nothing but `match`"
            raise ValueError(f"the rule for {self.match} {found}; give it either `skip: True`, or what is different")
        return self

    def changes(self) -> dict[str, object]:
        """What is different; values follow the bit of the rule."""
        given = self.model_dump(include={"bit", "v_bit", "granularity", "static"}, exclude_none=True)
        values = {"v_bit": None, **given} if "bit" in given else given
        return values if self.rotate == "inherit" else values | {"rotate": self.rotate}


class AttentionConfig(Strict):
    """How the queries, keys and values of attentions are quantized, beside the linears or alone."""

    bit: StrictInt | str = Field(description="8, e4m3, mxfp8 or mxfp4; mx formats have groups of their own")
    v_bit: StrictInt | str | None = Field(None, description="the same for values alone; default: bit")
    granularity: Literal["per_head", "per_block"] = Field(
        "per_head",
        description="which values share a scale: those of a head, or 128 tokens of a head (256 of keys and values)",
    )
    static: StrictBool = Field(
        False, description="True: one scale for each head is calibrated; False: measured at run time"
    )
    rotate: Literal["online"] | None = Field(
        None, description="online: queries and keys are multiplied by one random Hadamard matrix; null: they are not"
    )
    recall: Number = Field(
        0.9999, gt=0, le=1, description="the share of queries' and keys' values that a static scale reaches; of values "
        "it reaches all"
    )  # fmt: skip
    include: tuple[Glob, ...] = Field(
        ("*",),
        min_length=1,
        max_length=MAX_LISTED,
        description="globs over full names of attentions, such as `blocks.*.attn1`",
    )
    exclude: tuple[Glob, ...] = Field(
        (), max_length=MAX_LISTED, description="globs over those that stay float; they win over `include`"
    )
    rules: tuple[AttentionRuleConfig, ...] = Field(
        (), max_length=MAX_RULES, description="exceptions among the included, in order; the first that matches wins"
    )
    max_error: Number | None = Field(
        None, gt=0, description="an attention stays float if the error of its output on calibration calls is above this"
    )

    @field_validator("bit", "v_bit")
    @classmethod
    def _names_a_format(cls, bit: int | str | None) -> int | str | None:
        return named_format(bit)

    @model_validator(mode="after")
    def _fits_together(self) -> AttentionConfig:
        if "recall" in self.model_fields_set and not (self.static or any(rule.static for rule in self.rules)):
            raise ValueError("recall is for scales that are calibrated; write `static: True`, or leave recall out")
        try:
            self.spec()
            for rule in self.rules:
                self.rule_spec(rule)
        except ValidationError as error:
            raise ValueError("; ".join(str(e.get("ctx", {}).get("error", e["msg"])) for e in error.errors())) from error
        return self

    def spec(self) -> AttentionSpec:
        """The grids in the words of `llmc.numerics`."""
        return AttentionSpec.model_validate(
            {
                "qk": FORMATS[str(self.bit)],
                "v": FORMATS[str(self.bit if self.v_bit is None else self.v_bit)],
                "granularity": self.granularity,
                "dynamic": not self.static,
                "rotate": self.rotate is not None,
                "recall": self.recall,
            }
        )

    def rule_spec(self, rule: AttentionRuleConfig) -> AttentionSpec | None:
        """What the attentions of a rule get; None: they stay float."""
        return None if rule.skip else self.model_copy(update=rule.changes()).spec()


def named_format(bit: int | str | None) -> int | str | None:
    """The bit, if it is that of a format; None means another one."""
    if bit is not None and str(bit) not in FORMATS:
        raise ValueError(f"it is {shown(bit)}; {choice(bit, FORMATS)}")
    return bit
