"""What a run takes of a model of which only a fraction fits into memory: its anonymous memory in blocks, and its time.

python -m benchmarks.large [--dim 5120] [--ffn 13824] [--blocks 6 12] [--recipe rtn gptq] [--folder /tmp]
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.large_model import save_large_model
from benchmarks.measure import status, tensors_as_mappings
from benchmarks.page import write_page
from llmc.compat.load import load_config
from llmc.errors import AdapterError
from llmc.files.header import read_header
from llmc.run import run

RECIPES: dict[str, Any] = {
    "rtn": "RTN",
    "gptq": [{"name": "SmoothQuant", "alpha": 0.5, "gate": False}, {"name": "GPTQ"}],
}
SAMPLES = Path(__file__).parents[1] / "assets" / "wan_t2v" / "calib"
EVERY = 0.005  # seconds


@dataclass(frozen=True)
class Taken:
    """By one run, which is a process of its own."""

    seconds: float
    anonymous: int  # bytes, at the highest point, above what the imported libraries take


def main() -> None:
    """Print a table; each model is removed before the next one is made."""
    arguments = _arguments()
    lines = [f"{'recipe':<8}{'blocks':>7}{'GB':>7}{'GB/block':>10}{'peak, blocks':>14}{'seconds':>9}{'read alone':>12}"]
    for count in arguments.blocks:
        with tempfile.TemporaryDirectory(prefix="llmc-large-", dir=arguments.folder) as folder:
            model = Path(folder) / "model"
            save_large_model(model, arguments.dim, arguments.ffn, count)
            save_large_model(Path(folder) / "small" / "model", 128, 128, 2)
            block, whole = size_of(model, "blocks.0."), size_of(model)
            for recipe in arguments.recipe:
                config, small = (write_config(place, recipe) for place in (Path(folder), Path(folder) / "small"))
                forget(model)
                reading = _in_own_process(read_all, model)
                forget(model)
                taken = measured(config, small)
                lines.append(
                    f"{recipe:<8}{count:>7}{whole / 1e9:>7.2f}{block / 1e9:>10.3f}{taken.anonymous / block:>14.2f}"
                    f"{taken.seconds:>9.1f}{reading:>12.1f}"
                )
                print(lines[-1], flush=True)
    if arguments.page:
        write_page("large", "\n".join(lines), torch.device("cpu"))
    print("\n".join(lines))


def measured(config: Path, small: Path) -> Taken:
    """One run, in a process of its own."""
    with tensors_as_mappings():
        taken: Taken = _in_own_process(measure, config, small)
    return taken


def measure(config: Path, small: Path) -> Taken:
    """One run, watched, once another one has had all libraries imported."""
    run(load_config(small))
    loaded = load_config(config)
    before, peak, over = status("RssAnon"), [0], threading.Event()

    def watch() -> None:
        while not over.wait(EVERY):
            peak[0] = max(peak[0], status("RssAnon"))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    start = time.perf_counter()
    run(loaded)
    seconds = time.perf_counter() - start
    over.set()
    watcher.join()
    return Taken(seconds, peak[0] - before)


def write_config(folder: Path, recipe: str) -> Path:
    """A run without videos, of a few calls of three little ones where the recipe looks at any."""
    config = {
        "base": {"run_dir": str(folder / f"run-{recipe}"), "device": "cpu"},
        "model": {"type": "WanT2V", "path": str(folder / "model")},
        "calib": {"name": "t2v", "path": str(SAMPLES), "n_samples": 3, "sample_steps": 2, "target_height": 64,
                  "target_width": 64, "num_frames": 17, "guidance_scale": 2.0},
        "quant": {"video_gen": {"method": RECIPES[recipe], "weight": {"bit": 8, "granularity": "per_channel"},
                                "act": {"bit": 8, "granularity": "per_token"}}},
        "save": {"save_lightx2v": True, "save_path": str(folder / f"export-{recipe}")},
    }  # fmt: skip
    path = folder / f"{recipe}.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


def size_of(model: Path, prefix: str = "") -> int:
    """The bytes of all tensors of the transformer, or of those whose names begin so."""
    headers = [read_header(file, AdapterError) for file in (model / "transformer").glob("*.safetensors")]
    found = [tensor for header in headers for name, tensor in header.tensors.items() if name.startswith(prefix)]
    return sum(tensor.stop - tensor.start for tensor in found)


def read_all(model: Path) -> float:
    """The seconds that the disk takes for the weights alone."""
    buffer, start = bytearray(2**24), time.perf_counter()
    for file in (model / "transformer").glob("*.safetensors"):
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass
    return time.perf_counter() - start


def forget(model: Path) -> None:
    """Have the system forget what it keeps of the files, so that they are read from the disk."""
    for file in (model / "transformer").glob("*.safetensors"):
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _in_own_process(work: Callable[..., Any], *arguments: object) -> Any:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large", description=__doc__)
    parser.add_argument("--dim", type=int, default=5120, help="a multiple of 128")
    parser.add_argument("--ffn", type=int, default=13824)
    parser.add_argument("--blocks", type=int, nargs="+", default=[6, 12])
    parser.add_argument("--recipe", choices=RECIPES, nargs="+", default=list(RECIPES))
    parser.add_argument("--folder", type=Path, help="where models and exports lie meanwhile; default: TMPDIR")
    parser.add_argument("--page", action="store_true", help="write a page of results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
