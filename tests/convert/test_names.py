"""Every family there and back, against the converters that diffusers has for the same files."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from llmc.convert.model_types import MODEL_TYPES, fitting_types, naming_of
from llmc.convert.names import Names
from llmc.errors import ExportError
from tests.convert.families import FAMILIES, quantized, state
from tests.convert.tiny import lazy


def naming(family: str, names: dict[str, Tensor]) -> Names:
    return naming_of(names, MODEL_TYPES[FAMILIES[family][0]], "backward")[1]


def there(family: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    lazies = naming(family, tensors).to_original({name: lazy(tensor) for name, tensor in tensors.items()})
    return {name: tensor.make() for name, tensor in lazies.items()}


def back(family: str, originals: dict[str, Tensor], tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    lazies = naming(family, tensors).to_ours({name: lazy(tensor) for name, tensor in originals.items()})
    return {name: tensor.make() for name, tensor in lazies.items()}


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (found[name].dtype, found[name].shape) == (tensor.dtype, tensor.shape), name
        assert torch.equal(found[name].float(), tensor.float()), name


@pytest.mark.parametrize("dtype", [None, torch.int8, torch.float8_e4m3fn], ids=["float", "int8", "fp8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_tensor_of_every_family_comes_back_to_the_bit(family: str, dtype: torch.dtype | None) -> None:
    tensors = state(family) if dtype is None else quantized(state(family), dtype)
    originals = there(family, tensors)
    assert_same(back(family, originals, tensors), tensors)
    assert_same(there(family, back(family, originals, tensors)), originals)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_headers_say_what_is_made(family: str) -> None:
    tensors = quantized(state(family), torch.int8)
    for name, tensor in naming(family, tensors).to_original({n: lazy(t) for n, t in tensors.items()}).items():
        assert (tensor.dtype, tensor.shape) == (tensor.make().dtype, tuple(tensor.make().shape)), name


@pytest.mark.parametrize("family", ["t2v", "i2v", "vace", "animate"])
def test_diffusers_reads_our_wan_as_the_original(family: str) -> None:
    from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

    tensors = state(family)
    originals = {name: tensor for name, tensor in there(family, tensors).items() if not name.endswith(".kernel")}
    assert_same(convert_wan_transformer_to_diffusers(dict(originals)), tensors)


def test_diffusers_reads_our_hunyuan_as_the_original() -> None:
    from diffusers.loaders.single_file_utils import convert_hunyuan_video_transformer_to_diffusers

    # its converter of single blocks knows one width only
    tensors = {name: tensor for name, tensor in state("hunyuan").items() if not name.startswith("single")}
    assert_same(convert_hunyuan_video_transformer_to_diffusers(there("hunyuan", tensors)), tensors)


def test_a_single_block_of_hunyuan_is_q_k_v_and_the_mlp_below_each_other() -> None:
    tensors = state("hunyuan")
    originals = there("hunyuan", tensors)
    block = "single_transformer_blocks.1"
    parts = [tensors[f"{block}.{name}.weight"] for name in ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp")]
    assert torch.equal(originals["single_blocks.1.linear1.weight"], torch.cat(parts))


def test_the_filters_that_animate_stores_are_those_that_diffusers_makes() -> None:
    model = FAMILIES["animate"][1]()
    originals = there("animate", state("animate"))
    kernels = {name: tensor for name, tensor in originals.items() if name.endswith(".kernel")}
    assert len(kernels) == 14
    for conv in (model.motion_encoder.res_blocks[0].conv2, model.motion_encoder.res_blocks[6].conv_skip):
        assert all(torch.equal(kernel, conv.blur_kernel.reshape(4, 4)) for kernel in kernels.values())


def test_a_filter_of_other_values_is_refused() -> None:
    tensors = state("animate")
    originals = there("animate", tensors)
    name = next(name for name in originals if name.endswith(".kernel"))
    with pytest.raises(ExportError, match=r"kernel does not have the values"):
        back("animate", originals | {name: torch.ones(4, 4)}, tensors)


def test_what_lightx2v_loads_of_clip_is_there_and_a_real_head_is_kept() -> None:
    plain, projected = there("clip", state("clip")), there("clip with projection", state("clip with projection"))
    assert plain["visual.head"].shape == (8, 1024) and not plain["visual.head"].any()
    assert plain["log_scale"].shape == () and projected["visual.head"].shape == (8, 6)
    assert plain["visual.cls_embedding"].shape == (1, 1, 8) and plain["visual.pos_embedding"].shape == (1, 5, 8)
    tensors = state("clip")
    original = there("clip", tensors) | {"visual.head": torch.randn(8, 6), "log_scale": torch.tensor(4.6)}
    ours = back("clip", original, tensors)
    assert ours.keys() - tensors.keys() == {"visual_projection.weight", "logit_scale"}
    assert_same(there("clip", ours), original)


def test_the_text_half_of_clip_is_left_out_and_said() -> None:
    tensors = state("clip")
    text = {"textual.token_embedding.weight": torch.ones(2)}
    assert_same(back("clip", there("clip", tensors) | text, tensors), tensors)
    assert list(naming("clip", tensors).omitted(text)) == list(text)


def test_two_names_of_one_embedding_must_hold_the_same() -> None:
    tensors = state("umt5")
    assert len(there("umt5", tensors)) == len(tensors) - 1
    tensors["shared.weight"][3, 3] += 1
    with pytest.raises(ExportError, match=r"token_embedding\.weight would be one of tensors, which differ"):
        there("umt5", tensors)


def test_a_layer_that_is_not_whole_is_refused_with_what_is_missing() -> None:
    tensors = state("animate")
    del tensors["face_adapter.0.to_v.weight"], tensors["face_adapter.0.to_v.bias"]
    with pytest.raises(ExportError, match=r"face_adapter\.\{\}\.to_v is missing"):
        there("animate", tensors)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_checkpoint_s_names_tell_its_type_and_direction(family: str) -> None:
    tensors = state(family)
    kind = FAMILIES[family][0]
    ways = fitting_types(there(family, tensors))
    assert fitting_types(tensors) == ([(kind, "backward")] if kind != "qwen_image_dit" else ways)
    assert ways == [(kind, "forward")] or kind == "qwen_image_dit"


def test_a_wrong_type_or_direction_is_answered_with_the_right_one() -> None:
    wan, hunyuan = state("t2v"), there("hunyuan", state("hunyuan"))
    with pytest.raises(ExportError, match=r"convert them with `-t wan_dit -d backward`"):
        naming_of(wan, MODEL_TYPES["hunyuan_dit"], "backward")
    with pytest.raises(ExportError, match=r"convert them with `-t hunyuan_dit -d forward`"):
        naming_of(hunyuan, MODEL_TYPES["wan_dit"], "backward")
    with pytest.raises(ExportError, match=r"already have the names asked for.*`-t wan_dit -d backward`"):
        naming_of(wan, MODEL_TYPES["wan_dit"], "forward")
