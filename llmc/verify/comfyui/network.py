"""One file for ComfyUI in which each layer says what it is, and the rules that hold for its forms."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from llmc.numerics.spec import TensorSpec
from llmc.verify import file_rules
from llmc.verify.comfyui.forms import FORMS, Form, description_problems, readings, regular, rotation
from llmc.verify.files import Entry, parse_keys
from llmc.verify.names import Linear
from llmc.verify.plain_codes import PlainNetwork
from llmc.verify.storage import FLOATS, Leaf, Reading, short
from llmc.verify.verdict import Checked, Finding

MARKER = "scaled_fp8"  # makes a file one of the older form
TOKENS = TensorSpec(format="int8", granularity="per_token")
FP8, E5M2 = (TensorSpec(format=name, granularity="per_tensor", dynamic=False, quotient="times_reciprocal")
             for name in ("fp8_e4m3", "fp8_e5m2"))  # fmt: skip
ACTS: Mapping[str, TensorSpec] = {  # format -> how its kernel rounds inputs; of the others they stay float
    "int8_tensorwise": TOKENS, "float8_e4m3fn": FP8, "float8_e5m2": E5M2, "asym_w4a8_int8": TOKENS,
    "convrot_w4a4": TensorSpec(format="int4", granularity="per_token"), "nvfp4": TensorSpec(format="nvfp4"),
    "mxfp8": TensorSpec(format="mxfp8"),
}  # fmt: skip
BESIDE = ("bias", "comfy_quant", "input_scale", "pre_quant_scale")
ROUNDED_AS_THEY_ARE = ("float8_e4m3fn", "float8_e5m2")  # whose acts have a scale of 1 where the file has none
EVERY_LEAF = frozenset({"weight_scale", "weight_scale_2", "weight_zeros", "weight_s_rel", "weight_s_channel",
                        "weight_codebook", *BESIDE})  # fmt: skip


@dataclass(frozen=True)
class OlderNetwork(PlainNetwork):
    """A network of the older form, which says once for all layers whether inputs are quantized."""

    unread: ClassVar[frozenset[str]] = frozenset({MARKER})

    def act(self, linear: Linear) -> TensorSpec | None:
        return None if self.entries[MARKER].shape == (2,) else FP8


@dataclass(frozen=True)
class ComfyNetwork(PlainNetwork):
    """A network of the newer form."""

    @cached_property
    def by_layer(self) -> Mapping[str, dict[str, Entry]]:
        """What lies beside one another, by what follows a layer's name."""
        found: defaultdict[str, dict[str, Entry]] = defaultdict(dict)
        for name, entry in self.entries.items():
            layer, _, leaf = name.rpartition(".")
            found[layer][leaf] = entry
        return found

    def stored(self, linear: Linear) -> Mapping[str, Entry]:
        """All tensors of a linear."""
        return self.by_layer.get(linear.name, {})

    def says(self, linear: Linear) -> dict[str, Any] | None:
        """What its description is, if it has one that can be read."""
        entry = self.stored(linear).get("comfy_quant")
        return None if entry is None or entry.dtype != torch.uint8 else parse_keys(bytes(entry.read().tolist()))

    def form(self, linear: Linear) -> Form | None:
        """The form that its description names, where its codes are of the type of that."""
        form, codes = FORMS.get(str((self.says(linear) or {}).get("format"))), self.stored(linear).get("weight")
        return form if form is not None and codes is not None and codes.dtype == form.dtype else None

    def leaves_of(self, linear: Linear) -> Mapping[str, Leaf]:
        """The tensors that its form needs; none where it is not known."""
        form, says = self.form(linear), self.says(linear)
        if form is None or says is None:
            return {}
        return {
            "weight": form.weight(linear.outputs, linear.inputs),
            **form.leaves(linear.outputs, linear.inputs, says),
        }

    def sound(self) -> Iterator[tuple[Linear, Mapping[str, Entry]]]:
        for linear in self.linears:
            stored, leaves = self.stored(linear), self.leaves_of(linear)
            whole_ones = leaves.keys() - {"input_scale"} <= stored.keys() and not any(leaf_problems(self, linear))
            if leaves and whole_ones and not any(description_problems(self.says(linear) or {}, linear.inputs)):
                yield linear, stored

    def readings(self, linear: Linear, entries: Mapping[str, Entry]) -> Iterator[Reading]:
        says, tensors = self._read(linear, entries)
        return FORMS[says["format"]].decode(tensors, says)

    def float_readings(self, linear: Linear, entries: Mapping[str, Entry]) -> Iterator[Reading]:
        says, tensors = self._read(linear, entries)
        return readings(tensors, says)

    def _read(self, linear: Linear, entries: Mapping[str, Entry]) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return self.says(linear) or {}, {leaf: entry.read() for leaf, entry in entries.items()}

    def scales(self, linear: Linear, entries: Mapping[str, Entry]) -> Iterator[tuple[Entry, bool]]:
        """Some are padded with zeros, and some need not be exact in 16 bits: `scales_are_exact` knows."""
        names = ("weight_scale", "input_scale", "weight_scale_2", "weight_s_channel", "weight_s_rel")
        yield from ((entries[name], False) for name in names if name in entries)

    def multiplier(self, linear: Linear) -> Entry | None:
        return self.stored(linear).get("pre_quant_scale")

    def act(self, linear: Linear) -> TensorSpec | None:
        says = self.says(linear) or {}
        found = ACTS.get(str(says.get("format")))
        if found is None or says.get("full_precision_matrix_mult"):
            return None
        calibrated = says["format"] == "nvfp4" and "input_scale" in self.stored(linear)
        return found.model_copy(update={"dynamic": False}) if calibrated else found

    def grids(self, linear: Linear, entries: Mapping[str, Entry]) -> Mapping[str, Tensor]:
        says = self.says(linear) or {}
        found, size = {}, rotation(says)
        if "input_scale" in entries:
            found["act_whole" if says.get("format") == "nvfp4" else "act_scale"] = entries["input_scale"].read()
        return found if size is None else {**found, "rotation": regular(size)}


def names_are_complete(network: ComfyNetwork) -> Finding:
    """Nothing of the network is missing, and nothing is there that nobody reads."""
    wanted, known = {each.tensor for each in network.float_tensors}, set[str]()
    for linear in network.linears:
        name, leaves = linear.name, network.leaves_of(linear)
        wanted |= {f"{name}.{leaf}" for leaf in {"weight", *leaves} - {"input_scale"}}
        if network.quantized(linear):
            known |= {f"{name}.{leaf}" for leaf in (BESIDE if leaves else EVERY_LEAF)}
    there = network.entries.keys()
    problems = [f"{name} is missing" for name in sorted(wanted - there)]
    problems += [f"{name} is read by nobody" for name in sorted(there - wanted - known)]
    return Checked(problems, f"{len(network.entries)} tensors")


def shapes_are_right(network: ComfyNetwork) -> Finding:
    """Every tensor of a form is of its type and shape; all else stays float."""
    problems = [f"{entry.name} is {short(entry.dtype)}; it stays float" for each in network.float_tensors
                if (entry := network.find(each)) is not None and entry.dtype not in FLOATS]  # fmt: skip
    problems += file_rules.shape_problems(network)
    for linear in network.linears:
        problems += leaf_problems(network, linear)
    count = sum(network.quantized(linear) for linear in network.linears)
    return Checked(problems, f"{count} of {len(network.linears)} linears in the blocks are quantized")


def leaf_problems(network: ComfyNetwork, linear: Linear) -> Iterator[str]:
    """What is wrong about types and shapes of a linear."""
    stored = network.stored(linear)
    leaves = dict(network.leaves_of(linear)) if network.quantized(linear) else {"weight": Leaf(FLOATS, (linear.shape,))}
    if "pre_quant_scale" in stored:
        leaves["pre_quant_scale"] = Leaf(FLOATS, ((linear.inputs,),), scale=False)
    for leaf, allowed in leaves.items():
        entry = stored.get(leaf)
        if entry is not None and not allowed.fits(entry):
            types = " or ".join(map(short, allowed.dtypes))
            shapes = " or ".join(str(list(shape)) for shape in allowed.shapes)
            yield f"{entry.name} is {short(entry.dtype)} {list(entry.shape)}; it must be {types} {shapes}"


def scales_are_exact(network: ComfyNetwork) -> Finding:
    """What stands for rows, tensors or inputs is no zero, and exact in bf16 where it is rounded to that."""
    problems = []
    for linear, stored in network.sound():
        for leaf, about in network.leaves_of(linear).items():
            values = stored[leaf].read().float() if about.scale and leaf in stored and leaf != "weight" else None
            if values is not None and (values == 0).any():
                problems.append(f"{stored[leaf].name} holds scales that are not positive")
            elif values is not None and not torch.equal(values.bfloat16().float(), values):
                problems.append(f"{stored[leaf].name} is not exact in bfloat16, to which the runtime rounds it")
    return Checked(problems)


def layers_describe_themselves(network: ComfyNetwork) -> Finding:
    """Every quantized layer says what it is, with all that its readers ask for."""
    problems: list[str] = []
    for linear in network.linears:
        problems += _description_problems(network, linear, network.stored(linear))
    return Checked(problems, "comfy_quant")


def _description_problems(network: ComfyNetwork, linear: Linear, stored: Mapping[str, Entry]) -> Iterator[str]:
    name, says, described = linear.name, network.says(linear), "comfy_quant" in stored
    if not network.quantized(linear):
        if described:
            yield f"{name} is float, and described as quantized"
    elif not described:
        yield f"{name}.comfy_quant is missing: its codes would be read as values"
    elif says is None or network.form(linear) is None:
        yield f"{name}.comfy_quant says {says}, which is not how {name} is stored"
    else:
        yield from (f"{name}: {problem}" for problem in description_problems(says, linear.inputs))
        scale, alone = stored.get("input_scale"), bool(says.get("full_precision_matrix_mult"))
        if says["format"] in ROUNDED_AS_THEY_ARE and not alone and scale is None:
            yield f"{name}.input_scale is missing: its activations would be rounded at a scale of 1"
        elif scale is not None and (alone or says["format"] not in (*ROUNDED_AS_THEY_ARE, "nvfp4")):
            yield f"{scale.name} is read by nobody"
        if "pre_quant_scale" in stored and says["format"] != "nvfp4":
            yield f"{name}.pre_quant_scale is read by nobody: inputs of {says['format']} are multiplied by nothing"
