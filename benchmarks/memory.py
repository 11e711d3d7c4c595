"""Which published models fit which machine, by calculation from their configurations: the table of docs/memory.md.

python -m benchmarks.memory [--model Wan2.1-I2V-14B] [--method GPTQ]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path

from benchmarks.published import PUBLISHED, write_published
from llmc.compat.load import load_config
from llmc.estimate.facts import Facts, facts_of
from llmc.estimate.held import Held, Settings
from llmc.estimate.machine import ELSEWHERE, Machine
from llmc.estimate.stages import peaks, stages_of
from llmc.estimate.verdict import judge_fit
from llmc.log import byte_size

RECIPES = Path(__file__).parents[1] / "configs" / "quantization" / "video_gen"
SHIPPED: Mapping[str, str] = {
    "Wan2.1-T2V-1.3B": "wan_t2v/smoothquant_w_a.yaml",
    "Wan2.1-I2V-14B": "wan_i2v/smoothquant_w_a.yaml",
    "Wan2.2-I2V-A14B": "wan22_i2v/smoothquant_w_a.yaml",
    "HunyuanVideo": "hunyuan_t2v/smoothquant_w_a.yaml",
    "FLUX.1-dev": "flux/smoothquant_w_a.yaml",
}
DEVICES, HOSTS = (24, 48, 80), (32, 64, 128)  # GB
GB = 10**9


def main() -> None:
    """Print a row for each model and device, a cell for each host."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--model", choices=PUBLISHED, nargs="+", default=list(PUBLISHED))
    parser.add_argument("--method", help="in place of the recipe's own")
    arguments = parser.parse_args()
    print("| model | device | " + " | ".join(f"{size} GB of RAM" for size in HOSTS) + " |")
    print("|---|---|" + "---|" * len(HOSTS))
    for name in arguments.model:
        with tempfile.TemporaryDirectory(prefix="llmc-memory-") as folder:
            facts = facts_for(name, Path(folder), arguments.method)
            for device in DEVICES:
                cells = [cell(facts, Machine(ELSEWHERE, device * GB, host * GB)) for host in HOSTS]
                print(f"| {name} | {device} GB | " + " | ".join(cells) + " |", flush=True)
            print(f"{name}: {totals(facts)}", flush=True)


def facts_for(name: str, folder: Path, method: str | None) -> Facts:
    """Of the recipe that ships for a model."""
    overrides = [f"model.path={json.dumps(str(write_published(name, folder)))}"]
    if method is not None:
        overrides.append(f"quant.video_gen.method={method}")
    return facts_of(load_config(RECIPES / SHIPPED[name], overrides))


def cell(facts: Facts, machine: Machine) -> str:
    """How many blocks stay where it fits, or what to set."""
    verdict = judge_fit(facts, machine)
    device, host, _ = peaks(verdict.stages)
    if verdict.fits:
        stay = "/".join(str(verdict.held.resident(work)) for work in facts.work)
        return f"fits, {byte_size(device)} and {byte_size(host)}; {stay} blocks stay"
    if verdict.advice:
        return ", ".join(f"`{key}: {value}`" for key, value in verdict.advice.items())
    return "no"


def totals(facts: Facts) -> str:
    """What does not hang on the machine."""
    held = Held(facts, Settings(0, None, False), Machine(ELSEWHERE, None, 10**15))
    stages = stages_of(held)
    forwards = sum(stage.forwards for stage in stages)
    flops = max(work.flops for work in facts.work)
    of_stages = ", ".join(f"{stage.name} {byte_size(stage.device)}" for stage in stages)
    return (
        f"no block stays: {of_stages}; {byte_size(peaks(stages)[2])} in files; {forwards:.0f} forwards of "
        f"{flops / 1e15:.3g} PFLOP"
    )


if __name__ == "__main__":
    main()
