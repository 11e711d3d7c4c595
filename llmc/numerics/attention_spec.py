"""On which grids the queries, keys and values of an attention are put."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from llmc.numerics.spec import AnyFormat, ScaleDtype, TensorSpec
from llmc.plugin import Strict

Role = Literal["q", "k", "v"]
ROLES: tuple[Role, ...] = ("q", "k", "v")


class AttentionSpec(Strict):
    """How an attention is quantized; formats with groups of their own keep them, and have no granularity."""

    qk: AnyFormat
    v: AnyFormat
    granularity: Literal["per_head", "per_block"] = "per_head"  # per_block: so many tokens of a head share a scale
    dynamic: bool = True  # False: one calibrated scale for each head
    rotate: bool = False  # queries and keys by one orthogonal matrix, which leaves their products as they are
    recall: float = Field(0.9999, gt=0, le=1)  # the share of queries' and keys' values that a calibrated scale reaches
    scale_dtype: ScaleDtype = "float32"  # what a target keeps of calibrated scales and of the rotation

    @model_validator(mode="after")
    def _calibrated_scales_are_per_head(self) -> AttentionSpec:
        grouped = [format_.name for format_ in (self.qk, self.v) if format_.group_size is not None]
        if not self.dynamic and grouped:
            raise ValueError(f"{grouped[0]} measures the scale of every 32 values at run time; write `static: False`")
        if not self.dynamic and self.granularity != "per_head":
            raise ValueError(
                "static is True with granularity per_block; the next video has other tokens, so such a scale can only "
                "be per_head; write `granularity: per_head`, or `static: False`"
            )
        return self

    def grid(self, role: Role, calibrated: bool = False) -> TensorSpec:
        """The grid of one of the three, cut so that what shares a scale is a row; `calibrated` if that is given."""
        format_ = self.v if role == "v" else self.qk
        if format_.group_size is not None:
            return TensorSpec(format=format_)
        # a calibrated scale need not reach every value, and what lies beyond saturates at int8's extra code too
        divisor: Literal["largest_code", "half_of_all_codes"] = "half_of_all_codes" if calibrated else "largest_code"
        return TensorSpec(format=format_, granularity="per_token", divisor=divisor)

    def __str__(self) -> str:
        one = self.qk.name == self.v.name
        formats = self.qk.name if one else f"{self.qk.name}, v {self.v.name}"
        grouped = self.qk.group_size is not None and self.v.group_size is not None
        words = [formats, *([] if grouped else [self.granularity])]
        words += [f"static over {self.recall:.2%} of q and k"] if not self.dynamic else []
        return " ".join([*words, *(["rotated"] if self.rotate else [])])
