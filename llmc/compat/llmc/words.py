"""LLMC's words (ModelTC's LightCompress, for video models), and ours in place of them; nothing else knows them.

Its files have our sections, and most keys mean the same in both. Here is the rest: keys by another name, keys without
an effect here, and what LLMC means where it says nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmc.config.document import Document, KeyPath
from llmc.config.explain import Problem, problems_error
from llmc.config.samples import SamplesConfig
from llmc.config.words import shown
from llmc.section import Section

NETWORK: KeyPath = ("quant", Section.VIDEO_GEN.value)
SPECIAL: KeyPath = (*NETWORK, "special")
NOT_USED: Mapping[KeyPath, str] = {
    ("model", "use_cpu_to_save_cuda_mem_for_catcher"): "of what blocks read, a bounded sample is kept",
    ("model", "tokenizer_mode"): "the pipeline brings its tokenizer",
}
AWQ = {"trans": "scale", "weight_clip": "clip"}  # switches of `special` -> settings of Awq
AWQ_WORDS = {*AWQ, "trans_version", "clip_sym"}
STEPS = {"WanI2V": 50, "WanT2V": 50}  # LLMC leaves them to diffusers' pipelines, which take so many


def take_words(document: Document) -> None:
    """Put our words in place of LLMC's, each with the line where it stood, and note what has no effect."""
    for keys, why in NOT_USED.items():
        section = _section(document, keys[:-1])
        if keys[-1] in section:
            del section[keys[-1]]
            document.notes.append(f"{'.'.join(map(str, keys))} is not used: {why}")
    problems = [*_take_lora(document), *_take_awq(document)]
    if problems:
        raise problems_error(problems, document.source())
    _complete_calib(document)
    _complete_eval(document)
    _drop_group_sizes(document)


def _take_lora(document: Document) -> Iterator[Problem]:
    """`model.lora_path`: one LoRA that is merged first."""
    model, keys = _section(document, ("model",)), ("model", "lora_path")
    path = model.pop("lora_path", None)
    if path is None:
        return
    if model.get("lora"):
        yield Problem(keys, "model.lora says what is merged, too; keep one of them")
        return
    model["lora"] = [{"path": path}]
    _called(document, ("model", "lora", 0, "path"), keys)


def _take_awq(document: Document) -> Iterator[Problem]:
    """What `special` says beside `method: Awq`; LLMC clips only where it is told to."""
    network, special = _section(document, NETWORK), _section(document, SPECIAL)
    if network.get("method") != "Awq" or not AWQ_WORDS & special.keys():
        return
    if "clip" not in special:
        special.setdefault("weight_clip", False)
    for word, setting in AWQ.items():
        if word in special and setting in special:
            yield Problem((*SPECIAL, word), f"special.{setting} says the same; keep one of them")
        elif word in special:
            special[setting] = special.pop(word)
            _called(document, (*SPECIAL, setting), (*SPECIAL, word))
    version = special.pop("trans_version", "v2")
    if version != "v2":
        yield Problem(
            (*SPECIAL, "trans_version"),
            f"it is {shown(version)}; only v2 is known, whose scales are powers of the inputs alone: write v2, or take "
            "`method: FlexSmooth`, which searches an exponent of the weights too",
        )
    both_sides = special.pop("clip_sym", None)
    if not isinstance(both_sides, bool | None):
        yield Problem((*SPECIAL, "clip_sym"), f"it is {shown(both_sides)}; True or False is needed")
    symmetric = _section(document, (*NETWORK, "weight")).get("symmetric", True)
    if special.get("clip") is True and both_sides not in (None, symmetric):
        document.notes.append("special.clip_sym is not used: ranges are clipped as `symmetric` lets the grid lie")


def _complete_calib(document: Document) -> None:
    """A file for plain rounding has no `calib`; what `--set` begins of one is made whole from `eval`."""
    calib, judged = document.values.get("calib"), _section(document, ("eval",))
    begun = document.places.get(("calib",), "").startswith("--set ")
    if not (begun and judged and isinstance(calib, dict)):
        return
    told = {key: judged[key] for key in SamplesConfig.model_fields if key in judged}
    told["sample_steps"] = judged.get("steps") or _usual_steps(document)
    missing = {key: value for key, value in told.items() if key not in calib and value is not None}
    if missing:
        document.values["calib"] = calib | missing
        document.notes.append(f"calib is given by --set alone; as eval has it: {', '.join(missing)}")


def _complete_eval(document: Document) -> None:
    """Where the steps of the videos are nowhere said, they are those of the pipeline."""
    judged = document.values.get("eval")
    if not isinstance(judged, dict):
        return
    steps = _usual_steps(document)
    said = document.values.get("calib") or judged.get("steps") or judged.get("denoising_step_list")
    if judged.get("eval_pos") == []:
        document.notes.append("eval.eval_pos is empty: no videos are made, and nothing is judged")
    elif steps and not said:
        judged["steps"] = steps
        document.notes.append(f"eval.steps is not given, and no calib to take it from: {steps}, as in LLMC")


def _drop_group_sizes(document: Document) -> None:
    """`group_size: -1` means that there are no groups."""
    for side in ("weight", "act"):
        grid = _section(document, (*NETWORK, side))
        if grid.get("group_size") == -1 and grid.get("granularity") not in ("per_group", "per_block"):
            del grid["group_size"]


def _usual_steps(document: Document) -> int | None:
    name = _section(document, ("model",)).get("type")
    return STEPS.get(name) if isinstance(name, str) else None


def _section(document: Document, keys: KeyPath) -> dict[str, Any]:
    """The section of that name, empty if there is none; what is no section is left to the schema to refuse."""
    found: Any = document.values
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _called(document: Document, ours: KeyPath, theirs: KeyPath) -> None:
    """From now on a key of ours is spoken of as the file calls it, in its line."""
    document.words[ours] = theirs
    document.places[ours] = document.source().where(theirs)
