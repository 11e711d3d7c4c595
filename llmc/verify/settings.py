"""Rules of every target about what is no tensor: the settings of a network, and how inputs are rounded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from llmc.files.words import shown
from llmc.numerics.spec import TensorSpec
from llmc.verify.judged import JudgedPart
from llmc.verify.network import Network
from llmc.verify.verdict import Checked, Finding, NotChecked

NOT_COMPUTED = ("_class_name", "_diffusers_version", "_name_or_path", "architectures", "transformers_version", "dtype",
                "torch_dtype")  # fmt: skip


def config_differences(config: Mapping[str, Any], judged: Mapping[str, Any], own: Collection[str]) -> Iterator[str]:
    """Every setting of a config.json of diffusers that is not the judged network's; `own` are an export's additions."""
    if config.get("_class_name", judged.get("_class_name")) != judged.get("_class_name"):
        yield f"_class_name is {shown(str(config['_class_name']))}; judged was a {judged.get('_class_name')}"
    for key in {**judged, **config}:
        said, wanted = _plain(config.get(key)), _plain(judged.get(key))
        if key not in NOT_COMPUTED and key not in own and said != wanted:
            yield f"{key} is {shown(repr(said))}; the network that was judged has {shown(repr(wanted))}"


def _plain(value: Any) -> Any:
    """Tuples become lists in JSON."""
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def act_differences(network: Network, judged: JudgedPart) -> Iterator[str]:
    """Linears whose inputs the runtime rounds otherwise than the run did."""
    for linear, _ in network.sound():
        act = network.act(linear)
        for module in linear.modules:
            said = judged.layers.get(module)
            wanted = said.get("act") if isinstance(said, dict) else None
            found = None if act is None else act.model_dump(mode="json")
            if _computed(found) != _computed(wanted):
                yield f"{linear.name}: its input is {_words(found)}; judged was {module} with {_words(wanted)}"


def _computed(spec: Any) -> Any:
    """What a runtime computes by: a calibrated grid's own tensors tell its zero point, and how exact its scale is."""
    if not isinstance(spec, dict) or spec.get("dynamic"):
        return spec
    return {key: value for key, value in spec.items() if key not in ("symmetric", "scale_dtype")}


def _words(spec: Any) -> str:
    if spec is None:
        return "float"
    try:
        return str(TensorSpec.model_validate(spec))
    except ValueError:
        return shown(repr(spec))


def acts_are_the_judged_ones(network: Network) -> Finding:
    """Inputs are rounded at run time as they were when the run judged."""
    judged = network.sources.judged(network.part)
    if not isinstance(judged, JudgedPart):
        return judged if isinstance(judged, NotChecked) else Checked([judged])
    return Checked(list(act_differences(network, judged)))
