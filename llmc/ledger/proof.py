"""What a run keeps of what it judged, so that an export can be held against it: `judged.json` and a witness of each
network, beside `weights.json`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmc.engine.network import Network
from llmc.errors import CalibrationError
from llmc.files.regular import open_file
from llmc.layers.attention import QuantAttention
from llmc.layers.linear import QuantLinear
from llmc.ledger.digests import folded_digests, tensor_digests, weight_digests
from llmc.ledger.folder import RunFolder
from llmc.ledger.witness import Witness, make_witness
from llmc.log import log
from llmc.models.base import ModelAdapter

JUDGED, WEIGHTS = "judged.json", "weights.json"
PIPELINE = "model_index.json"  # where this lies, components lie beside


def keep_judged(
    adapter: ModelAdapter,
    model: Path,
    networks: Sequence[Network],
    sampling: Mapping[str, Any],
    exports: Sequence[Path],
    folder: RunFolder,
) -> None:
    """Write down every tensor's digest, every setting, and a witness of each network."""
    folder.write_json(WEIGHTS, weight_digests(networks))
    parts = {network.part.name: _part(adapter, model, network, folder) for network in networks}
    quantized = {network.part.folder or network.part.name for network in networks}
    components = _components(model, exports, quantized)
    folder.write_json(JUDGED, {"sampling": dict(sampling), "components": components, "parts": parts})


def _part(adapter: ModelAdapter, model: Path, network: Network, folder: RunFolder) -> dict[str, Any]:
    part = network.part
    witness = make_witness(adapter, adapter.index(model), network)
    return {
        "family": adapter.name,
        "section": part.section,
        "config": _config(network),
        "layers": {name: _grids(layer) for name, layer in network.layers.items()},
        "attentions": {name: _attention(each) for name, each in network.attentions.items()},
        "steps": _steps(network),
        "tensors": tensor_digests(network),
        "folded": folded_digests(network),
        "witness": _written(witness, part.name, folder),
    }


def _written(witness: Witness | str, part: str, folder: RunFolder) -> dict[str, Any]:
    if isinstance(witness, str):
        log.info("there is no witness of %s: %s", part, witness)
        return {"why_not": witness}
    file = f"witness-{part}.safetensors"
    witness.save(folder.path / file)
    return {"file": file, "step": witness.step, "limit": witness.limit}


def _config(network: Network) -> dict[str, Any]:
    """The network's config.json, without where it was loaded from."""
    part = network.part
    if part.config is not None:
        return dict(part.config)
    config: Any = part.module.config
    if not part.is_denoiser:  # transformers' own class
        return {**config.to_dict(), "architectures": [type(part.module).__name__]}
    own = {key: value for key, value in config.items() if key not in ("_name_or_path", "_use_default_values")}
    return {"_class_name": type(part.module).__name__, **own}


def _grids(layer: QuantLinear) -> dict[str, Any]:
    spec: dict[str, Any] = layer.spec.model_dump(mode="json")
    return spec


def _steps(network: Network) -> dict[str, int] | None:
    """The schedule that layers have calibrated grids for, and the first step that uses them."""
    found = [layer.state.steps for layer in network.layers.values() if layer.state.steps is not None]
    return {"steps": len(found[0].scale), "first_static_step": found[0].dynamic_below} if found else None


def _attention(attention: QuantAttention) -> dict[str, Any] | None:
    """None: it was left float."""
    if attention.state.stays_float:
        return None
    spec: dict[str, Any] = attention.spec.model_dump(mode="json")
    return spec


def _components(model: Path, exports: Sequence[Path], quantized: set[str]) -> dict[str, str]:
    """The sha256 of what exports of whole pipelines have of the float model beside its quantized networks."""
    whole = [folder for folder in exports if (folder / PIPELINE).is_file() and (model / PIPELINE).is_file()]
    found: dict[str, str] = {}
    for folder in whole:
        for file in sorted(folder.rglob("*")):
            inside = file.relative_to(folder)
            name = inside.as_posix()
            copied = name == PIPELINE or len(inside.parts) > 1  # beside it stands what an export says of itself
            if copied and inside.parts[0] not in quantized and name not in found and (model / inside).is_file():
                with open_file(model / inside, CalibrationError) as opened:
                    found[name] = hashlib.file_digest(opened, "sha256").hexdigest()
    return found
