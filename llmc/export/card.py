"""The model card: README.md beside the weights, with the front matter that the Hugging Face Hub reads."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import yaml

from llmc.atomic import atomic_file
from llmc.errors import ExportError
from llmc.files.json_text import read_object_if_there
from llmc.log import one_line

if TYPE_CHECKING:
    from llmc.export.part import FinishedPart

HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")  # organization/model
HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


class AsItIs(str):
    """Text of the card that is Markdown already, or its front matter."""


def write_card(folder: Path, parts: Sequence[FinishedPart], target: str, about: Mapping[str, str], usage: str) -> None:
    """Write README.md: what this is, how it was made, what it costs, how it is run."""
    import jinja2  # here: the command line imports every exporter, and is to answer at once

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("llmc.export", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
        finalize=in_markdown,
    )
    origin = base_model(parts[0].source)
    text = environment.get_template("card.md.jinja").render(
        front_matter=AsItIs(yaml.safe_dump(front_matter(origin, target, about), sort_keys=False)),
        title=origin or parts[0].source.resolve().name,
        target=target,
        about=about,
        provenance=parts[0].provenance,
        specs=[(part.name, len(part.layers), sorted({str(layer.spec) for layer in part.layers.values()}))
               for part in parts],
        attentions=[(part.name, *attention_line(part)) for part in parts if part.attentions],
        errors=[(part.name, *mean_errors(part)) for part in parts if figures(part, "error")],
        weights=[(part.name, *weight_errors(part)) for part in parts if part.errors and not figures(part, "error")],
        usage=AsItIs(usage),
    )  # fmt: skip
    with atomic_file(folder / "README.md") as file:
        file.write(text.encode())


def in_markdown(value: object) -> object:
    """What the template is given, such as the name of a folder, as text of one line in which nothing takes effect."""
    if not isinstance(value, str) or isinstance(value, AsItIs):
        return value
    return re.sub(r"[\\`*\[\]|#&<>]", lambda found: HTML.get(found[0], f"\\{found[0]}"), one_line(value))


def inline_code(text: str) -> str:
    """Text between more backticks than it has in a row."""
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{space}{one_line(text)}{space}{ticks}"


def attention_line(part: FinishedPart) -> tuple[int, int, str]:
    """How many attentions are quantized, of how many that were meant to be, and how."""
    attentions = list(part.attentions.values())
    specs = dict.fromkeys(str(each.spec) for each in attentions)
    return sum(not each.state.stays_float for each in attentions), len(attentions), " and ".join(specs)


def front_matter(origin: str | None, target: str, about: Mapping[str, str]) -> dict[str, object]:
    """What the Hub files the model under."""
    known = {} if origin is None else {"base_model": origin}
    return known | {"base_model_relation": "quantized", "tags": list(dict.fromkeys(["llmc", target, *about.values()]))}


def base_model(source: Path) -> str | None:
    """The Hub's name of the float pipeline, if the pipeline says where it came from."""
    index = read_object_if_there(source / "model_index.json", ExportError)
    if index is None:  # a lone network's own folder
        return None
    name = str(index.get("_name_or_path", ""))
    return name if HUB_NAME.fullmatch(name) and not Path(name).exists() else None


def mean_errors(part: FinishedPart) -> tuple[float, float, str, float]:
    """Output error of the recipe and of plain rounding, each the mean over layers; the worst layer and its error."""
    recipe, plain = figures(part, "error"), figures(part, "baseline_error")
    return fmean(recipe.values()), fmean(plain.values()), *_worst(recipe)


def weight_errors(part: FinishedPart) -> tuple[float, str, float]:
    """Error of the weights, the mean over layers; the worst layer and its error."""
    found = figures(part, "weight_error")
    return fmean(found.values()), *_worst(found)


def figures(part: FinishedPart, kind: str) -> dict[str, float]:
    """One figure of each layer, where it was measured."""
    return {name: error[kind] for name, error in part.errors.items() if kind in error}


def _worst(errors: Mapping[str, float]) -> tuple[str, float]:
    return max(errors.items(), key=lambda item: item[1])
