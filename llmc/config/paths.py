"""Where the paths of a configuration are looked for, and their types in the schema."""

from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, ValidationInfo

REPOSITORY = Path(__file__).parents[2]


def input_candidates(path: Path, config_folder: Path | None = None) -> list[Path]:
    """The places where an input may be, in order; LLMC runs from `scripts/`, so its relative paths start there."""
    if path.is_absolute():
        return [path]
    folders = [Path.cwd(), REPOSITORY / "scripts", *([config_folder] if config_folder else [])]
    return [(folder / path).resolve() for folder in folders]


def resolve_input(path: Path, config_folder: Path | None = None) -> Path:
    """The first candidate that exists; the path as written when there is none, for the checks to report."""
    path = path.expanduser()
    return next((place for place in input_candidates(path, config_folder) if place.exists()), path)


def _resolved(path: Path, info: ValidationInfo) -> Path:
    source = (info.context or {}).get("source")
    return resolve_input(path, source.path.parent if source else None)


def _not_empty(value: Any) -> Any:
    if value == "":
        raise ValueError("the path is empty; name a folder, or leave the key out")
    return value


InputPath = Annotated[Path, BeforeValidator(_not_empty), AfterValidator(_resolved)]
OutputPath = Annotated[Path, BeforeValidator(_not_empty), AfterValidator(Path.expanduser)]
