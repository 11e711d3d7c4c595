"""What a network is prepared for: how a target runtime computes with a layer, and which scales it can carry."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol, TypeVar

import torch

from llmc.errors import UnsupportedSpec
from llmc.layers.transforms import Rotation
from llmc.numerics.attention_spec import AttentionSpec
from llmc.numerics.spec import LayerSpec, ScaleDtype

# who multiplies an input by a Scale: the rows of linears before it, an affine norm, a norm that time modulates, or
# nobody in the float network
Carrier = Literal["linear", "norm", "modulated norm", "nobody"]
EVERY_CARRIER: frozenset[Carrier] = frozenset({"linear", "norm", "modulated norm", "nobody"})
Spec = TypeVar("Spec", LayerSpec, AttentionSpec)


class Target(Protocol):
    """What has to be known of a target before a network is calibrated for it; exporters answer."""

    @property
    def name(self) -> str: ...

    @property
    def names(self) -> str | None:
        """The table of renames that it writes by; `ORIGINAL`: where several layers can be one."""

    @property
    def multiplier_dtype(self) -> ScaleDtype | None:
        """In which it keeps Scales, if it multiplies inputs at run time by all of them: then none is folded."""

    def computed(self, spec: LayerSpec) -> LayerSpec:
        """The spec as it computes with it."""

    def computed_attention(self, spec: AttentionSpec) -> AttentionSpec:
        """The spec of an attention as it computes with it."""

    def carries(self, spec: LayerSpec) -> frozenset[Carrier]:
        """Who may multiply the input of such a layer."""

    def rotation(self, spec: LayerSpec) -> Rotation:
        """Whether such a layer's input can be rotated at run time, or always is."""

    def for_encoders(self) -> Target:
        """As it treats encoders."""


def carrier_of(fold: Sequence[torch.nn.Module]) -> Carrier:
    """Who multiplies a group's input by a Scale, told from the modules that could absorb it."""
    if not fold:
        return "nobody"
    weight = getattr(fold[0], "weight", None)
    if weight is None:
        return "modulated norm"
    return "linear" if weight.ndim == 2 else "norm"


def as_computed(spec: LayerSpec, targets: Sequence[Target]) -> LayerSpec:
    """The spec as the targets compute with it: scales exact in what they keep, activations rounded as their kernels do,
    so that what is judged is what will run."""
    return _the_form({target.computed(spec): target.name for target in targets}, spec, str(spec))


def as_computed_attention(spec: AttentionSpec, targets: Sequence[Target]) -> AttentionSpec:
    """The spec of an attention as the targets compute with it."""
    forms = {target.computed_attention(spec): target.name for target in targets}
    return _the_form(forms, spec, f"attention in {spec}")


def _the_form(forms: Mapping[Spec, str], spec: Spec, what: str) -> Spec:
    """The one form, of those with a target that computes so; a target that computes the spec as it is takes any."""
    others = {form: name for form, name in forms.items() if form != spec}
    if len(others) > 1:
        raise UnsupportedSpec(
            f"{' and '.join(others.values())} compute {what} in different ways, and the videos can only be judged in "
            "one: export one at a time"
        )
    return next(iter(others), spec)
