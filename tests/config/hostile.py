"""Configurations as nobody should write them: good ones whose values, keys or lines were spoiled at random."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from llmc.compat.load import load_document

RECIPES = Path(__file__).parents[2] / "configs/quantization/video_gen"
TINY = ("smoothquant_w_a", "full_stack_w4a4", "mindie_w8a8_timestep", "attention_w_a", "smoothquant_w_a_fp8_encoders")
LARGE = ("wan22_i2v/lora_merged_w_a", "flux/mindie_w8a8_dynamic_fa3", "opensora_plan/smoothquant_w_a_29x480p")
DIALECT = """apiversion: multimodal_sd_modelslim_v1
spec:
  process:
    - type: linear_quant
      qconfig:
        act: {scope: per_token, dtype: int8, symmetric: True, method: minmax}
        weight: {scope: per_channel, dtype: int8, symmetric: True, method: minmax}
      include: ["*"]
      exclude: ["*ffn.2*"]
  save: [{type: mindie_format_saver, part_file_size: 0}]
  multimodal_sd_config:
    inference_config: {prompt: a fox, size: "64*64", frame_num: 17, sample_steps: 4, base_seed: 3}
"""
SHIPPED = [RECIPES / f"{name}.yaml" for name in [*(f"wan_i2v_tiny/{name}" for name in TINY), *LARGE]]
WHOLE = [load_document(path).as_yaml() for path in SHIPPED]
BUILT = [path.read_text(encoding="utf-8") for path in SHIPPED]
TEXTS = [*WHOLE, *BUILT[::4], DIALECT]
VALUES: list[dict[str, Any]] = [yaml.safe_load(text) for text in TEXTS]
Place = tuple[str | int, ...]

NUMBERS = [-1, 0, 1, 2, 10**9, 2**31, 2**63 - 1, 2**63, 2**64 + 1, 10**400, -(10**30), 0.5, 1e308, 1e-308, -0.0]
CHARACTERS = ["", " ", "\0", "a\0b", "\x1b[31mred\x1b[0m", "\u202eleft", "\u2028", "\ud800", "😀", "\r\n", "\t", "<b>"]
PATHS = [
    "~nosuchuser/x",
    "~",
    "/",
    "..",
    "../" * 200,
    "a/" * 3000,
    "n" * 300,
    "/dev/zero",
    "/proc/self/mem",
    "/etc/passwd",
]
GLOBS = ["*", "**", "[", "[!", "[z-a]", "*a" * 150 + "b", "{a,b}" * 60, "{" * 400, "blocks.*", "blocks.0.*"]
FIGURES = ["0-99999999999", "9-4", "²", "1e308", "nan", "0x" + "f" * 900, "9" * 5000, "2024-01-01", "1:30", "yes"]
LONG = ["é" * 400, "x" * 20_000, "<<", "=", "!!python/object:os.system", "%s {0} {{7*7}} $(id)", "cuda:99999999999"]
METHODS = ["GPTQ", "Awq", "LowRank", "Timestep", "Hadamard", "RTN", "search", "inherit"]
KINDS = ["WanT2V", "Flux", "Wan2.1", "e4m3", "nvfp4", "mxfp4", "per_group", "per_block", "i2v", "t2v"]
WORDS = [*CHARACTERS, *PATHS, *GLOBS, *FIGURES, *LONG, *METHODS, *KINDS]

MEMBERS = ["name", "bit", "match", "skip", "weight", "act", "rules", "attention", "alpha", "seeds", "lora", "prompts"]
KEYS = [*MEMBERS, "", "\x1b[2J", "k" * 900]

TAGS = [
    "!!python/object/apply:os.system [x]",
    "!!binary aGVsbG8=",
    "!!bool maybe",
    "!!int ''",
    "!!timestamp x",
    "!!set {a}",
]
ALIASES = ["&x [*x]", "*nowhere", "<<: {a: 1}", "a: &a [1, 1, 1]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]"]
ESCAPES = ['"\\U00110000"', '"\\uD800"', '"\\x00"', "\t", "\x85", "\x07", "'open", "{a: 1", "[1, 2"]
FORMS = ["- 1", "---", "...", "%YAML 9.9", "1: 2", "null: 3", "2024-01-01: x", "? [a]\n: 1", "a: b: c", "@x", "|\n x"]
DEEP = ["[" * 60, "{" * 60, "- " * 100, "? " * 100, "x: " * 40, "1:" * 300 + "1.5", "0b_", ".nan", "-.inf"]
MANY = ["\n".join(f"k{i}: 1" for i in range(1000)), "- 1\n" * 3000, "# " + "c" * 50_000, "key: " + "v " * 9000]
LINES = [*TAGS, *ALIASES, *ESCAPES, *FORMS, *DEEP, *MANY, "model: {}", "calib:"]

scalars = st.one_of(
    st.sampled_from(NUMBERS), st.sampled_from(WORDS), st.none(), st.booleans(), st.integers(), st.floats(),
    st.text(max_size=20), st.dates(),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.dictionaries(st.one_of(st.sampled_from(KEYS), st.text(max_size=5), st.integers()), inner, max_size=3),
    ),
    max_leaves=6,
)


def places(value: Any, here: Place = ()) -> Iterator[Place]:
    """The place of everything in a value, and its own."""
    yield here
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*here, key))


@st.composite
def spoiled_values(draw: st.DrawFn) -> str:
    """Good values of which some were replaced, removed, added to or wrapped."""
    document: Any = {"": deepcopy(draw(st.sampled_from(VALUES)))}
    for _ in range(draw(st.integers(1, 3))):
        *outer, key = draw(st.sampled_from(list(places(document))[1:]))
        parent: Any = document
        for step in outer:
            parent = parent[step]
        match draw(st.sampled_from(["replace", "replace", "remove", "add", "wrap"])):
            case "replace":
                parent[key] = draw(values)
            case "remove":
                del parent[key]
            case "add" if isinstance(parent, dict):
                parent[draw(st.sampled_from(KEYS))] = draw(values)
            case _:
                parent[key] = draw(st.sampled_from([[parent[key]], {"name": parent[key]}]))
        if not document or not isinstance(document[""], dict | list) or not document[""]:
            break
    return yaml.dump(document.get(""), sort_keys=False, allow_unicode=draw(st.booleans()))


@st.composite
def spoiled_texts(draw: st.DrawFn) -> str:
    """A good text with lines that were added, replaced, doubled, moved or cut off."""
    lines = draw(st.sampled_from(TEXTS)).split("\n")
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(lines) - 1))
        match draw(st.sampled_from(["add", "value", "double", "indent", "cut", "character"])):
            case "add":
                lines.insert(at, " " * draw(st.integers(0, 12)) + draw(st.sampled_from(LINES)))
            case "value":
                lines[at] = f"{lines[at].partition(':')[0]}: {draw(st.sampled_from(LINES))}"
            case "double":
                lines.insert(at, lines[at])
            case "indent":
                lines[at] = " " * draw(st.integers(0, 12)) + lines[at].lstrip()
            case "cut":
                lines = lines[: at + 1]
            case "character":
                lines[at] = draw(st.characters(codec="utf-8")) + lines[at]
    return "\n".join(lines)


@st.composite
def overrides(draw: st.DrawFn) -> list[str]:
    """Options that set keys of a good configuration, or others, with any value."""
    known = [".".join(map(str, place)) for place in places(draw(st.sampled_from(VALUES))) if place]
    keys = st.one_of(
        st.sampled_from(known), st.sampled_from(known), st.sampled_from(["", ".", "a.b", "calib.²", "x." * 60])
    )
    texts = st.one_of(
        st.sampled_from(WORDS),
        st.sampled_from(LINES),
        st.builds(lambda value: yaml.dump(value, default_flow_style=True), values),
    )
    options: list[str] = []
    for _ in range(draw(st.integers(1, 3))):
        options += ["--set", f"{draw(keys)}={draw(texts)}"]
    return options
