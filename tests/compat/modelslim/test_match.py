"""Globs over the original repository's names, and the rules that they become."""

from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmc.compat.modelslim.match import Choice, expand, fits, names_of, original_name, rules_for, unmatched
from llmc.models.hunyuan import ORIGINAL
from llmc.models.wan import LIGHTX2V

LINEARS = ("attn1.to_q", "attn1.to_k", "ffn.net.0.proj", "ffn.net.2")
NAMES = [
    f"{blocks}.{number}.{linear}" for blocks in ("blocks", "vace_blocks") for number in range(12) for linear in LINEARS
]


@pytest.mark.parametrize(
    ("glob", "plain"),
    [
        ("*ffn.2*", ["*ffn.2*"]),
        ("*{a,b}*", ["*a*", "*b*"]),
        ("{a,b}.{c,d}", ["a.c", "a.d", "b.c", "b.d"]),
        ("blocks.{0,1{0,1}}.q", ["blocks.0.q", "blocks.10.q", "blocks.11.q"]),
        ("{a}", ["{a}"]),
        ("{a,b", ["{a,b"]),
        ("a,b}", ["a,b}"]),
        ("{,x}y", ["y", "xy"]),
    ],
)
def test_braces_expand_as_a_shell_does_it(glob: str, plain: list[str]) -> None:
    assert list(expand(glob)) == plain


def test_a_glob_fits_whole_names_and_minds_letter_case() -> None:
    assert fits("blocks.0.self_attn.q", "*self_attn.{q,k,v}")
    assert not fits("blocks.0.self_attn.o", "*self_attn.{q,k,v}")
    assert not fits("blocks.0.self_attn.q", "self_attn.q")
    assert not fits("blocks.0.self_attn.q", "*SELF_ATTN*")


def test_a_glob_that_fits_nothing_comes_with_what_was_perhaps_meant() -> None:
    assert unmatched(["blocks.0.ffn.0", "blocks.0.self_attn.q"], ["*", "*fnn.0"]) == {"*fnn.0": ["blocks.0.ffn.0"]}


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("blocks.31.attn1.to_out.0", "blocks.31.self_attn.o"),
        ("blocks.7.ffn.net.2", "blocks.7.ffn.2"),
        ("condition_embedder.time_proj", "time_projection.1"),
    ],
)
def test_names_of_wan_are_those_of_its_repository(ours: str, theirs: str) -> None:
    assert original_name(ours, names_of(LIGHTX2V)) == theirs


def test_linears_that_are_one_in_the_original_share_its_name() -> None:
    names = names_of(ORIGINAL)
    found = {original_name(f"transformer_blocks.19.attn.{linear}", names) for linear in ("to_q", "to_k", "to_v")}
    assert found == {"double_blocks.19.img_attn_qkv"}


@given(
    st.dictionaries(st.sampled_from(NAMES), st.sampled_from([None, 0, 1]), min_size=1), st.sampled_from([None, 0, 1])
)
def test_rules_give_every_layer_its_choice(changed: dict[str, Choice], default: Choice) -> None:
    choices = dict.fromkeys(NAMES, default) | changed
    rules = rules_for(choices, default)
    for name, choice in choices.items():
        assert next((found for glob, found in rules if fnmatchcase(name, glob)), default) == choice


def test_rules_say_what_blocks_have_in_common_once() -> None:
    choices: dict[str, Choice] = {name: None if name.endswith("ffn.net.2") else 0 for name in NAMES}
    assert rules_for(choices, 0) == [("blocks.*.ffn.net.2", None), ("vace_blocks.*.ffn.net.2", None)]
    whole: dict[str, Choice] = {name: 1 if name.startswith("blocks.3.") else 0 for name in NAMES}
    assert rules_for(whole, 0) == [("blocks.3.*", 1)]
