"""Which grid a tensor is rounded to, and how many of its elements share one scale."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationInfo, field_validator, model_validator

from llmc.numerics.formats.base import Format, Rounding
from llmc.plugin import Strict, by_name

Granularity = Literal["per_tensor", "per_channel", "per_token", "per_group", "per_block"]
MULTIPLIED = ("int8", "float8_e4m3fn")  # types of codes that hardware multiplies
ScaleDtype = Literal["float32", "bfloat16", "float16"]
Quotient = Literal["exact", "times_reciprocal", "divided_in_bf16", "times_reciprocal_in_bf16"]
Divisor = Literal["largest_code", "half_of_all_codes"]
SumScale = Literal["float32", "fp19"]  # 8 bits of exponent, and 23 or 10 of mantissa
if TYPE_CHECKING:
    import torch

    AnyFormat = Format
else:
    AnyFormat = by_name("llmc.numerics.formats", Format)


class TensorSpec(Strict):
    """How one tensor is quantized. A format with groups of its own needs neither granularity nor group_size."""

    format: AnyFormat
    granularity: Granularity = Field(None, validate_default=True)  # None: as the format has it
    # per_group: elements of a row that share a scale; per_block: the side of a square
    group_size: int | None = Field(None, validate_default=True)
    symmetric: bool = True
    # an activation's scale is measured at run time; False: calibrated (of two levels, the one of the whole tensor)
    dynamic: bool = True
    rounding: Rounding = "nearest_even"
    # scales are made exact in it *before* anything is rounded; of_input: in the type of what is quantized
    scale_dtype: ScaleDtype | Literal["of_input"] = "float32"
    kept_scale_dtype: ScaleDtype = "float32"  # some kernels narrow a scale only *after* they have rounded with it
    # what an asymmetric grid keeps of the value of its middle code; None: zero itself lies on a code
    offset_dtype: ScaleDtype | None = None
    quotient: Quotient = "exact"  # what is rounded to a code: some kernels compute it in bf16
    divisor: Divisor = "largest_code"  # of the largest magnitude; half of 255 lets int8 reach -128, and clips above 127
    # a symmetric integer grid leaves out its lowest code; kernels that only saturate give it to what is below the grid
    mirrored: bool = True

    @field_validator("granularity", "group_size", mode="before")
    @classmethod
    def _as_the_format_has_it(cls, value: Any, info: ValidationInfo) -> Any:
        own = getattr(info.data.get("format"), "group_size", None)
        if value is not None or own is None:
            return value
        if info.field_name == "granularity":
            return "per_group"
        return own if info.data.get("granularity") == "per_group" else None

    @model_validator(mode="after")
    def _groups_are_those_of_the_format(self) -> TensorSpec:
        own = self.format.group_size
        if own is None:
            return self
        if (self.granularity, self.group_size) != ("per_group", own):
            found = f"{self.granularity} {self.group_size or ''}".strip()
            raise ValueError(
                f"{self.format.name} has one scale for every {own} neighbours of a row; found {found}: "
                "leave granularity and group_size out"
            )
        if not self.dynamic and (self.format.whole_max is None or self.format.whole_groups is not None):
            raise ValueError(
                f"{self.format.name} measures the scale of every {own} values at run time, so none is calibrated; "
                "write `static: False`"
            )
        return self

    @model_validator(mode="after")
    def _fits_together(self) -> TensorSpec:
        if (self.granularity in ("per_group", "per_block")) != (self.group_size is not None):
            raise ValueError("group_size is required with per_group and per_block, and allowed only there")
        if self.format.steps_every is not None and self.granularity not in ("per_channel", "per_token"):
            raise ValueError(
                f"{self.format.name} has a scale for each row, and steps of its own in it; found {self.granularity}: "
                "leave granularity and group_size out"
            )
        if self.group_size is not None and self.group_size < 1:
            raise ValueError(f"group_size is {self.group_size}; it must be at least 1")
        if not self.symmetric and not self.format.integer:
            raise ValueError(
                f"{self.format.name} is a float format: its grid is symmetric, so `symmetric: False` cannot apply"
            )
        return self

    @property
    def one_scale_per_row(self) -> bool:
        """Whether scales can be taken out of the sums of a product."""
        return self.symmetric and self.granularity in ("per_tensor", "per_channel", "per_token")

    @property
    def rows_apart(self) -> bool:
        """Whether the rows of a matrix are rounded each by itself."""
        return self.granularity in ("per_channel", "per_token", "per_group") and self.format.whole_max is None

    @property
    def one_scale_for_all(self) -> bool:
        """Whether all values of a tensor share a scale, be it above those of groups."""
        return self.granularity == "per_tensor" or (
            self.format.whole_max is not None and self.format.whole_groups is None
        )

    def measured_per_token(self) -> TensorSpec:
        """The symmetric grid of the same format that runtimes measure for each token."""
        measured = {"granularity": "per_token", "symmetric": True, "dynamic": True, "scale_dtype": "float32"}
        return self.model_copy(update=measured)

    def of_input(self, dtype: torch.dtype) -> TensorSpec:
        """The spec for a tensor of that type, on which scales may depend."""
        if self.scale_dtype != "of_input":
            return self
        return self.model_copy(update={"scale_dtype": str(dtype).removeprefix("torch.")})

    def __str__(self) -> str:
        size = f" {self.group_size}" if self.group_size else ""
        unusual = {
            "asymmetric": not self.symmetric,
            "static": not self.dynamic,
            "truncated": self.rounding == "toward_zero",
        }
        return " ".join([f"{self.format.name} {self.granularity}{size}", *(word for word in unusual if unusual[word])])


class LayerSpec(Strict):
    """How one linear is quantized; None leaves that side float."""

    weight: TensorSpec | None = None
    act: TensorSpec | None = None
    # kernels with a static act add the bias to the sums, in their unit, whose worth they keep in this type; None: the
    # bias is added in float
    sums: SumScale | None = None

    def with_stored_scales(self, dtype: ScaleDtype) -> LayerSpec:
        """The spec with the scales that a file holds exact in `dtype`: those of the weight, and of a static act."""
        stored = [spec if spec is None or (spec is self.act and spec.dynamic)
                  else spec.model_copy(update={"scale_dtype": dtype}) for spec in (self.weight, self.act)]  # fmt: skip
        return LayerSpec(weight=stored[0], act=stored[1], sums=self.sums)

    def real_problem(self) -> str | None:
        """Why hardware cannot multiply the codes of such a layer; None if it can, or if the layer is float."""
        weight, act = self.weight, self.act
        if weight is None and act is None:
            return None
        if weight is None or act is None:
            return f"real arithmetic multiplies codes by codes, weight and act both quantized; found {self}"
        if weight.format.dtype not in MULTIPLIED or act.format.dtype != weight.format.dtype:
            return f"real arithmetic is int8 by int8 or fp8 e4m3 by fp8 e4m3; found {self}"
        if not (weight.one_scale_per_row and act.one_scale_per_row):
            return f"real arithmetic scales whole sums, of symmetric codes per channel, token or tensor; found {self}"
        return None

    @property
    def multiplies_int8(self) -> bool:
        """Whether its product is one of int8 codes."""
        both = self.weight is not None and self.act is not None and self.act.format.name == "int8"
        return both and self.real_problem() is None

    def __str__(self) -> str:
        return f"weight {self.weight or 'float'}, act {self.act or 'float'}"
