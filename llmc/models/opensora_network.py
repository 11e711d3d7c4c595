"""The network of Open-Sora-Plan v1.2, read from its folder of the release, and the places of tokens that it takes.

diffusers' AllegroTransformer3DModel is the same network under the same tensor names; its configuration has other words.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import torch

from llmc.errors import AdapterError
from llmc.files.header import read_header
from llmc.files.json_text import read_object
from llmc.files.numbers import is_whole, source_of
from llmc.models.libraries import Loading
from llmc.models.networks import misfits
from llmc.models.settings import check_settings

# keys of the original's config.json that mean the same in diffusers
SHARED = (
    "patch_size", "patch_size_t", "num_attention_heads", "attention_head_dim", "in_channels", "out_channels",
    "num_layers", "dropout", "cross_attention_dim", "attention_bias", "activation_fn", "norm_elementwise_affine",
    "norm_eps", "caption_channels",
)  # fmt: skip
# switches of the original's code, and the one position that diffusers' network is built in
FIXED: Mapping[str, Any] = {
    "norm_type": "ada_norm_single",
    "use_rope": True,
    "downsampler": None,
    "attention_type": "default",
    "only_cross_attention": False,
    "double_self_attention": False,
    "norm_elementwise_affine": False,
    "patch_size_t": 1,
}
SIZES = ("sample_size", "sample_size_t", "interpolation_scale_t", "interpolation_scale_h", "interpolation_scale_w")
# read by the original's constructor, and without influence on what it computes
IDLE = (
    "norm_num_groups", "num_vector_embeds", "num_embeds_ada_norm", "use_linear_projection", "upcast_attention",
    "use_additional_conditions", "attention_mode", "use_stable_fp32",
)  # fmt: skip

# cosines and sines along time, height and width; each token's place on them
Tables: TypeAlias = "tuple[tuple[tuple[torch.Tensor, torch.Tensor], ...], tuple[torch.Tensor, ...]]"


def read_config(folder: Path) -> dict[str, Any]:
    """The config.json of the network in `folder`, in the original's words."""
    return read_object(folder / "config.json", AdapterError)


def network_arguments(config: Mapping[str, Any]) -> dict[str, Any]:
    """What diffusers' class is built with; a network that it would not compute alike is refused."""
    own = {key: value for key, value in config.items() if not key.startswith("_")}
    if missing := {*SHARED, *FIXED, *SIZES} - own.keys():
        raise AdapterError(
            f"{source_of(config)} lacks {', '.join(sorted(missing))}; that of Open-Sora-Plan v1.2 has them: take "
            "config.json from the release"
        )
    if unknown := own.keys() - {*SHARED, *FIXED, *SIZES, *IDLE}:
        raise AdapterError(
            f"{source_of(config)} has {', '.join(sorted(unknown))}, which Open-Sora-Plan v1.2 has not; only v1.2 "
            "is read: take another checkpoint"
        )
    for key, value in FIXED.items():
        if own[key] != value:
            raise AdapterError(
                f"{source_of(config)} says {key}: {own[key]}; only networks with {key}: {value} can be read, as "
                "all of Open-Sora-Plan v1.2 are"
            )
    if own["out_channels"] not in (None, own["in_channels"]):
        raise AdapterError(
            f"the network makes {own['out_channels']} channels of {own['in_channels']}; as many as it reads are "
            "expected, as in all of Open-Sora-Plan v1.2"
        )
    check_settings(config)
    frames, height, width = _sizes(config)
    defaults = {"t": (frames - 1) // 16 + 1 if frames % 2 else frames / 16, "h": height / 30, "w": width / 40}
    scales = {f"interpolation_scale_{axis}": value for axis, value in defaults.items()}
    scales |= {key: own[key] for key in scales if own[key] is not None}
    shared = {key: own[key] for key in SHARED} | {"out_channels": own["in_channels"]}
    return shared | scales | {"sample_frames": frames, "sample_height": height, "sample_width": width}


def _sizes(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Frames, height and width of the latents that the network was trained on."""
    frames, sides = config["sample_size_t"], config["sample_size"]
    sizes = (frames, *sides) if isinstance(sides, list) else (frames, sides, sides)
    if len(sizes) != 3 or not all(map(is_whole, sizes)):
        raise AdapterError(
            f"{source_of(config)} says sample_size_t: {frames} and sample_size: {sides}; the one is a whole number, "
            "the other one or two: take config.json from the release"
        )
    return sizes[0], sizes[1], sizes[2]


def empty_network(config: Mapping[str, Any]) -> torch.nn.Module:
    """The network as its config.json describes it, on the meta device."""
    from diffusers import AllegroTransformer3DModel

    arguments = network_arguments(config)
    with Loading(f"the network of {source_of(config)}"), torch.device("meta"):
        network: torch.nn.Module = AllegroTransformer3DModel(**arguments)
    return network.eval()


def load_network(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    """The network with its weights, each tensor of one found in the other."""
    from safetensors.torch import load_file

    network = empty_network(read_config(folder))
    weights: dict[str, torch.Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        read_header(file, AdapterError)
        with Loading(str(file)):
            weights |= {name: tensor.to(dtype) for name, tensor in load_file(file).items()}
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    if lines := misfits({name: tuple(tensor.shape) for name, tensor in weights.items()}, wanted):
        raise AdapterError("\n".join([f"{folder} does not fit its config.json; take both from one release:", *lines]))
    network.load_state_dict(weights, strict=True, assign=True)
    return network


def rotary_tables(config: Any, sizes: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> Tables:
    """Rotary embeddings. Angles are rounded to the network's own type before their cosines are taken: so this model was
    trained."""
    width = config.attention_head_dim // 3
    frequencies = 1.0 / 10000.0 ** (torch.arange(0, width, 2, device=device).float() / width)
    tables = []
    for size, axis in zip(sizes, "thw", strict=True):
        places = torch.arange(size, device=device).float() / config[f"interpolation_scale_{axis}"]
        angles = torch.outer(places, frequencies).to(dtype).repeat(1, 2)
        tables.append((angles.cos(), angles.sin()))
    grid = torch.cartesian_prod(*(torch.arange(size, device=device) for size in sizes))  # (tokens, 3)
    return tuple(tables), tuple(grid.T.contiguous()[:, None])
