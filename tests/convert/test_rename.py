import pytest

from llmc.convert.rename import Renamer
from llmc.errors import ExportError
from llmc.models.wan import LIGHTX2V
from tests.convert.tiny import KINDS, tiny_wan

WAN = Renamer(LIGHTX2V)


@pytest.mark.parametrize("kind", KINDS)
def test_every_name_of_every_wan_has_its_own_translation_and_comes_back(kind: str) -> None:
    names = list(tiny_wan(kind).state_dict())
    there = WAN.forward_all(names)
    assert len(set(there.values())) == len(names)
    assert WAN.backward_all(there.values()) == {new: old for old, new in there.items()}


@pytest.mark.parametrize("suffix", ["", ".weight", ".weight_scale", ".input_scale", ".lora_A.default.weight"])
def test_whatever_follows_a_module_is_kept_in_both_directions(suffix: str) -> None:
    pairs = [(left.format(n) + suffix, right.format(n) + suffix) for left, right in LIGHTX2V for n in (0, 7, 39)]
    assert list(WAN.forward_all(left for left, _ in pairs).items()) == list(dict.fromkeys(pairs))
    assert {right: left for left, right in pairs} == WAN.backward_all(right for _, right in pairs)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("scale_shift_table", "head.modulation"),
        ("blocks.12.scale_shift_table", "blocks.12.modulation"),
        ("blocks.3.norm2.weight", "blocks.3.norm3.weight"),
        ("blocks.3.affine_norm3.weight", "blocks.3.affine_norm3.weight"),
        ("blocks.0.attn1.to_out.0.weight_scale", "blocks.0.self_attn.o.weight_scale"),
        ("condition_embedder.image_embedder.pos_embed", "img_emb.emb_pos"),
        ("condition_embedder.image_embedder.ff.net.0.proj.bias", "img_emb.proj.1.bias"),
        ("vace_blocks.1.proj_out.weight", "vace_blocks.1.after_proj.weight"),
        ("vace_blocks.1.attn2.to_q.weight", "vace_blocks.1.cross_attn.q.weight"),
        ("proj_out.weight", "head.head.weight"),
    ],
)
def test_known_pairs_are_as_lightx2v_reads_them(ours: str, theirs: str) -> None:
    assert (WAN.forward(ours), WAN.backward(theirs)) == (theirs, ours)


def test_unknown_names_are_refused_all_at_once_with_the_closest_known() -> None:
    with pytest.raises(ExportError) as refused:
        WAN.forward_all(["proj_out.weight", "blocks.0.attn1.to_qq.weight", "motion_encoder.conv_in.weight"])
    message = str(refused.value)
    assert "2 of 3 tensor names" in message
    assert "blocks.0.attn1.to_qq.weight: closest known are blocks.{}.attn1.to_q" in message
    assert "motion_encoder.conv_in.weight" in message


def test_names_that_are_already_translated_are_called_so() -> None:
    with pytest.raises(ExportError, match="already have the names asked for"):
        WAN.forward_all(["patch_embedding.weight", "blocks.0.self_attn.q.weight"])


@pytest.mark.parametrize(
    "table",
    [
        (("a", "b"), ("a", "c")),
        (("a", "b"), ("c", "b")),
        (("a", "b"), ("a.x", "c")),
        (("a.x", "c"), ("a", "b")),
        (("a.{}", "b"),),
    ],
)
def test_a_table_that_is_not_one_to_one_is_a_programming_error(table: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(ValueError, match=r"stands twice|begins with|same number"):
        Renamer(table)
