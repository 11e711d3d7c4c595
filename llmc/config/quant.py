"""The `quant` section: methods, and the grid of each layer's weight and act, in LLMC's words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, StrictBool, StrictInt, ValidationError, field_validator, model_validator

from llmc.algorithms.base import Algorithm
from llmc.config.attention import AttentionConfig
from llmc.config.numbers import MAX_BLOCK, MAX_GROUP, MAX_RULES, Glob
from llmc.config.words import choice, shown
from llmc.numerics.formats.base import Format
from llmc.numerics.spec import LayerSpec, TensorSpec
from llmc.plugin import Strict, by_name, discover
from llmc.section import Section

if TYPE_CHECKING:
    AnyAlgorithm = Algorithm
else:
    AnyAlgorithm = by_name("llmc.algorithms", Algorithm)


class GridConfig(Strict):
    """The grid that a tensor is rounded to."""

    bit: StrictInt | str = Field(
        description="bits of an integer grid (8, 4, ...), or the name of a float one (e4m3, e2m1, ...); mxfp8, mxfp6, "
        "mxfp4 and nvfp4 have groups of their own, and need no granularity or group_size"
    )
    symmetric: StrictBool = Field(True, description="zero lies on the middle code; float grids are always symmetric")
    group_size: StrictInt | None = Field(
        None, ge=1, le=MAX_GROUP, description="elements that share a scale, with per_group and per_block only"
    )
    quant_type: Literal["int-quant", "float-quant"] | None = Field(
        None, description="the kind of grid; told from `bit` if left out"
    )
    use_qtorch: StrictBool = Field(
        False, description="round float grids with QPyTorch itself (it compiles C++ at its first use)"
    )
    rounding: Literal["nearest_even", "half_away"] = Field(
        "nearest_even", description="where ties go: nearest_even as the hardware does, half_away as LLMC's own files do"
    )
    calib_algo: Literal["minmax"] = Field("minmax", description="how a scale is found: from the largest magnitude")

    @model_validator(mode="before")
    @classmethod
    def _groups_are_those_of_the_format(cls, data: Any) -> Any:
        format_ = formats().get(format_name(data.get("bit", ""))) if isinstance(data, Mapping) else None
        return data if format_ is None or format_.group_size is None else {"granularity": "per_group", **data}

    @field_validator("bit")
    @classmethod
    def _names_a_format(cls, bit: int | str) -> int | str:
        if format_name(bit) not in formats():
            raise ValueError(f"bit is {shown(bit)}; {choice(bit, bits())}")
        return bit

    @model_validator(mode="after")
    def _is_a_grid(self) -> GridConfig:
        integer = formats()[format_name(self.bit)].integer
        if self.quant_type is not None and (self.quant_type == "int-quant") != integer:
            fitting = "int-quant" if integer else "float-quant"
            raise ValueError(
                f"quant_type is {self.quant_type}, but bit {self.bit} is {'an integer' if integer else 'a float'} one: "
                f"write `quant_type: {fitting}`, or one of the bits {', '.join(b for b, i in _kinds() if i != integer)}"
            )
        if self.use_qtorch and integer:
            raise ValueError(
                f"use_qtorch rounds float grids, and bit {self.bit} is an integer one; leave use_qtorch out"
            )
        if self.use_qtorch and "rounding" in self.model_fields_set:
            raise ValueError("use_qtorch: True decides the rounding already; leave `rounding` or `use_qtorch` out")
        if getattr(self, "granularity", None) == "per_block" and (self.group_size or 0) > MAX_BLOCK:
            raise ValueError(f"group_size is {self.group_size} with per_block; write at most {MAX_BLOCK}")
        try:
            self.spec()
        except ValidationError as error:
            raise ValueError("; ".join(str(e.get("ctx", {}).get("error", e["msg"])) for e in error.errors())) from error
        return self

    def spec(self) -> TensorSpec:
        """The grid in the words of `llmc.numerics`."""
        return TensorSpec.model_validate(self._spec_fields())

    def _spec_fields(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("granularity", "group_size", "symmetric")}
        return own | {"format": format_name(self.bit), "rounding": "qtorch" if self.use_qtorch else self.rounding}


class WeightConfig(GridConfig):
    """The grid of the weights; their scales are known before the model runs."""

    granularity: Literal["per_tensor", "per_channel", "per_group", "per_block"] = Field(
        "per_channel",
        description="which weights share a scale: all, an output channel, a group of a channel, a square block",
    )


class ActConfig(GridConfig):
    """The grid of what a linear reads."""

    granularity: Literal["per_tensor", "per_token", "per_group"] = Field(
        "per_token", description="which values share a scale: all, a token, a group of a token"
    )
    static: StrictBool = Field(
        False,
        description="True: the scale is calibrated (of nvfp4 that of the whole tensor); False: measured at run time",
    )

    @model_validator(mode="after")
    def _static_scales_are_per_tensor(self) -> ActConfig:
        two_levels = formats()[format_name(self.bit)].whole_max is not None  # the upper one can be calibrated
        if self.static and self.granularity != "per_tensor" and not two_levels:
            raise ValueError(
                f"static is True with granularity {self.granularity}; the next video has other tokens, so such a scale "
                "can only be per_tensor; write `granularity: per_tensor`, or `static: False`"
            )
        return self

    def _spec_fields(self) -> dict[str, Any]:
        return super()._spec_fields() | {"dynamic": not self.static}


class RuleConfig(Strict):
    """What the layers of a name are given; the first rule that matches a layer wins."""

    match: Glob = Field(
        description="glob over full layer names, such as `blocks.*.ffn.net.2`, or "
        "`transformer_2.blocks.*.ffn.net.2` for one part of several",
    )
    weight: WeightConfig | Literal["inherit"] | None = Field(
        "inherit", description="inherit: as above in `weight`; null: float"
    )
    act: ActConfig | Literal["inherit"] | None = Field("inherit", description="inherit: as above in `act`; null: float")
    skip: StrictBool = Field(False, description="True: these layers stay float altogether")

    @model_validator(mode="after")
    def _says_one_thing(self) -> RuleConfig:
        says_grid = self.weight != "inherit" or self.act != "inherit"
        if self.skip == says_grid:
            found = "has `skip: True` and a grid" if self.skip else "says nothing but `match`"
            raise ValueError(f"the rule for {self.match} {found}; give it either `skip: True`, or `weight` or `act`")
        return self


class NetworkConfig(Strict):
    """How networks are quantized."""

    method: tuple[AnyAlgorithm, ...] = Field(
        min_length=1,
        max_length=16,
        description="a method's name, `{name: SmoothQuant, alpha: search}`, or a list of those, in order",
    )
    special: dict[str, Any] = Field(
        {}, description="the settings of a single method, beside its bare name, as LLMC writes them"
    )
    weight: WeightConfig | None = Field(None, description="the grid of every weight; left out: weights stay float")
    act: ActConfig | None = Field(None, description="the grid of every act; left out: acts stay float")
    rules: tuple[RuleConfig, ...] = Field(
        (), max_length=MAX_RULES, description="exceptions by layer name, in order; the first that matches wins"
    )
    attention: AttentionConfig | None = Field(
        None, description="how attention itself is quantized, in video_gen alone; left out: it stays float"
    )

    @model_validator(mode="before")
    @classmethod
    def _settings_join_their_method(cls, data: Any) -> Any:
        if not isinstance(data, Mapping) or data.get("method") is None:
            return data
        method, special = data["method"], data.get("special")
        if special and isinstance(special, Mapping):
            if not isinstance(method, str):
                raise ValueError(
                    "special is given, but method is not one bare name; write its settings in `method` itself"
                )
            return {**data, "method": [{"name": method, **special}], "special": {}}
        listed = method if isinstance(method, list | tuple) else [method]
        return {**data, "method": listed, "special": {} if special is None else special}

    @model_validator(mode="after")
    def _quantizes_something(self) -> NetworkConfig:
        grids = (self.weight, self.act, self.attention)
        if all(grid is None for grid in grids) and all(rule.skip for rule in self.rules):
            raise ValueError(
                "neither weight nor act is given, so nothing would be quantized; give at least one, or a rule that "
                "does, or `attention`"
            )
        return self

    def default_spec(self) -> LayerSpec:
        """What a layer gets that no rule matches."""
        return LayerSpec(weight=_spec(self.weight), act=_spec(self.act))

    def observes(self) -> bool:
        """Whether networks must be observed: for statistics of a method, for scales of acts, or for attention."""
        acts = [self.default_spec().act, *(self.rule_spec(rule).act for rule in self.rules)]
        calibrated = any(act is not None and not act.dynamic for act in acts)
        return calibrated or self.attention is not None or any(method.needs for method in self.method)

    def rule_spec(self, rule: RuleConfig) -> LayerSpec:
        """What the layers of a rule get."""
        if rule.skip:
            return LayerSpec()
        weight = self.weight if rule.weight == "inherit" else rule.weight
        act = self.act if rule.act == "inherit" else rule.act
        return LayerSpec(weight=_spec(weight), act=_spec(act))


class QuantConfig(Strict):
    """What is quantized."""

    video_gen: NetworkConfig = Field(description="how the networks of a video (or image) pipeline are quantized")
    text_encoder: NetworkConfig | None = Field(
        None, description="how its text encoders are quantized, with the keys of video_gen; left out: they stay float"
    )
    image_encoder: NetworkConfig | None = Field(
        None, description="how its image encoder is quantized, with the keys of video_gen; left out: it stays float"
    )

    @model_validator(mode="after")
    def _encoders_attend_in_float(self) -> QuantConfig:
        for name, network in self.sections().items():
            if name != Section.VIDEO_GEN and network.attention is not None:
                raise ValueError(f"{name}.attention is given; only networks of video_gen attend in another way: "
                                 "leave it out")  # fmt: skip
        return self

    def sections(self) -> dict[Section, NetworkConfig]:
        """The sections that are given, the denoising networks first."""
        given = {section: getattr(self, section) for section in Section}
        return {section: network for section, network in given.items() if network is not None}


def formats() -> dict[str, type[Format]]:
    """Every number format by name."""
    return discover("llmc.numerics.formats", Format)


def format_name(bit: int | str) -> str:
    """The format that LLMC calls `bit: 8` or `bit: e4m3`; a format's own name means itself."""
    return next((name for name in formats() if str(bit) in (name, _short(name))), str(bit))


def bits() -> list[str]:
    """What `bit` can be."""
    return [bit for bit, _ in _kinds()]


def _kinds() -> list[tuple[str, bool]]:
    return [(_short(name), format_.integer) for name, format_ in formats().items()]


def _short(name: str) -> str:
    return re.sub(r"^(int|fp\d_)", "", name)


def _spec(grid: GridConfig | None) -> TensorSpec | None:
    return None if grid is None else grid.spec()
