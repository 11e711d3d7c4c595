"""Which layer gets which grid."""

import pytest

from llmc.errors import ConfigError
from llmc.numerics.spec import LayerSpec, TensorSpec
from llmc.policy.rules import Policy, Rule, parse_block_ids

INT8 = LayerSpec(weight=TensorSpec(format="int8", granularity="per_channel"))
INT4 = LayerSpec(weight=TensorSpec(format="int4", granularity="per_channel"))
NAMES = [f"blocks.{i}.{layer}" for i in range(3) for layer in ("attn1.to_q", "ffn.net.0.proj", "ffn.net.2")]


def test_the_first_rule_that_matches_wins() -> None:
    policy = Policy(INT8, rules=(Rule("blocks.1.*", LayerSpec()), Rule("*ffn*", INT4)))
    assert [policy.spec_of(name) for name in NAMES[:6]] == [INT8, INT4, INT4, LayerSpec(), LayerSpec(), LayerSpec()]


def test_ignored_blocks_and_layers_stay_float() -> None:
    policy = Policy(INT8, ignored_blocks=frozenset({0}), ignored_layers=("*.ffn.net.2",))
    quantized = [name for name in NAMES if policy.spec_of(name) == INT8]
    assert quantized == [n for n in NAMES if not n.startswith("blocks.0") and not n.endswith("net.2")]


def test_a_pattern_that_matches_nothing_is_an_error_with_suggestions() -> None:
    with pytest.raises(ConfigError, match=r"blocks\.\*\.fnn\.net\.2.*matches no layer.*\n.*ffn\.net\.2"):
        Policy(INT8, rules=(Rule("blocks.*.fnn.net.2", INT4),)).check({"transformer": NAMES})
    with pytest.raises(ConfigError, match="the blocks 7, which the model does not have"):
        Policy(INT8, ignored_blocks=frozenset({7})).check({"transformer": NAMES})


def test_rules_count_what_they_match() -> None:
    assert Policy(INT8, rules=(Rule("*ffn*", INT4),)).check({"transformer": NAMES}) == {"*ffn*": 6}


def test_a_rule_may_be_for_one_part_of_several() -> None:
    parts = {"transformer": NAMES, "transformer_2": NAMES}
    policy = Policy(INT8, (Rule("transformer_2.blocks.1.*", INT4), Rule("transformer.*.ffn.net.2", LayerSpec())))
    assert policy.check(parts) == {"transformer_2.blocks.1.*": 3, "transformer.*.ffn.net.2": 3}
    assert policy.spec_of("blocks.1.ffn.net.2", "transformer_2") == INT4
    assert policy.spec_of("blocks.1.ffn.net.2", "transformer") == LayerSpec()
    assert policy.spec_of("blocks.1.ffn.net.0.proj", "transformer") == INT8
    ignored = Policy(INT8, ignored_layers=("transformer_2.*.attn1.to_q",))
    assert [ignored.spec_of(NAMES[0], part) for part in parts] == [INT8, LayerSpec()]


def test_a_pattern_must_match_in_one_of_the_parts_and_need_not_in_each() -> None:
    parts = {"transformer": NAMES, "text_encoder": ["encoder.block.0.layer.0.SelfAttention.q"]}
    assert Policy(INT8, rules=(Rule("*.SelfAttention.q", INT4),)).check(parts) == {"*.SelfAttention.q": 1}
    with pytest.raises(ConfigError, match=r"transformer_2\.blocks.*matches no layer.*\n.*transformer\.blocks"):
        Policy(INT8, rules=(Rule("transformer_2.blocks.*", INT4),)).check(parts)


@pytest.mark.parametrize("ids", ["0,15-18", [0, "15-18"], ["0", 15, 16, 17, 18]])
def test_block_ids_are_numbers_and_ranges(ids: object) -> None:
    assert parse_block_ids(ids) == {0, 15, 16, 17, 18}  # type: ignore[arg-type]


@pytest.mark.parametrize("ids", ["a", "3-1", "1-", "-2", ""])
def test_other_block_ids_are_refused(ids: str) -> None:
    with pytest.raises(ValueError, match="neither a block number nor a range"):
        parse_block_ids(ids)
