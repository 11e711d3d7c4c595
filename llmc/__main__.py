"""The command line. Nothing heavy is imported before a run begins."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from llmc.ending import exit_code, speaks
from llmc.errors import ConfigError, ExportError
from llmc.later import import_later
from llmc.log import visible
from llmc.pipe import ended_with_its_reader

if TYPE_CHECKING:
    from rich.table import Table

    from llmc.config.schema import Config

import_later("torch")

GATE_NOT_PASSED = 3  # the exit code of a run that has done all it should, and is worse than `eval.gate` allows

DEFAULT = Path("configs/quantization/video_gen/wan_i2v_tiny/smoothquant_w_a.yaml")  # found wherever llmc is started
# msModelSlim's options, and the keys that they are short for
SHORT = {"model_path": "model.path", "model_type": "model.type", "save_path": "save.path", "device": "base.device"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0; 1, an export fails its rules; 2, something that the user can mend; 3, a run did not
    pass its gate; 130 or 143, it was interrupted. With 141 it leaves: nobody reads what is printed."""
    with ended_with_its_reader():
        return answer(list(sys.argv[1:] if arguments is None else arguments))


def answer(given: list[str]) -> int:
    """Do what a command line asks for."""
    if not given:
        command_parser().print_help(sys.stderr)
        return 2
    options = command_parser().parse_args(["run", *given] if "--config" in given[:1] else given)

    def work() -> int | None:
        if options.plugin:
            from llmc.config.plugins import import_plugins

            import_plugins(options.plugin)
        code: int | None = options.command(options)
        return code

    return exit_code(work, options.debug)


def run_command(options: argparse.Namespace) -> int:
    """Do all that a configuration asks for."""
    return _run(_checked_config(options.config, _overrides(options)), options)


def quant_command(options: argparse.Namespace) -> int:
    """Quantize one model for MindIE-SD with msModelSlim's options: by a recipe that ships, or by a YAML of yours."""
    from llmc import log
    from llmc.compat.modelslim.one_command import AFTERWARDS, recipe_of

    with log.start(verbose=options.debug):
        path, overrides = recipe_of(options, _overrides(options))
    config = _checked_config(path, overrides)
    if options.eval and config.eval is None:
        raise ConfigError(
            f"--eval: {path} has no `eval` section, which says how the videos are made to judge by; give it one "
            "(docs/config.md has the keys), or leave --eval out"
        )
    code = _run(config, options)
    if speaks() and not options.json:
        print(AFTERWARDS)
    return code


def _run(config: Config, options: argparse.Namespace) -> int:
    """Run; 3 if it ended, and did not pass its gate."""
    from llmc import log

    with log.start(verbose=options.debug):
        from llmc.run import run

        results = run(config)
    code = GATE_NOT_PASSED if results.gate is not None and results.gate.verdict != "passed" else 0
    if not speaks():
        return code
    from llmc.eval.results import summary, summary_table

    if results.metrics:
        _show(summary_table(results))
    if (gain := results.ratio.get("teacher_forced_error")) is not None:
        print(f"teacher-forced error: {gain:.3f} of plain rounding at the same bits")
    if results.gate is not None:
        print(visible(results.gate.sentence))
    for name, path in {"run folder": results.run, "checkpoint": results.checkpoint, "report": results.report}.items():
        if path is not None:
            print(visible(f"{name}: {path}"))
    if options.json:
        import json

        print(json.dumps(summary(results), allow_nan=False))
    return code


def check_command(options: argparse.Namespace) -> None:
    """Say what a configuration would do, or all that is wrong with it, without loading a model."""
    from llmc.checks.entry import check
    from llmc.checks.scarce import worries
    from llmc.compat.load import config_of, load_document
    from llmc.config.plan import plan

    document = load_document(options.config, _overrides(options))
    config = config_of(document)
    if options.resolved:
        print(document.as_yaml(), end="")
        return
    parts = check(config, look_at_layers=options.explain)
    if options.translate:
        print(document.as_yaml(), end="")
        return
    print(visible(plan(config)))
    for note in document.notes:
        print(visible(f"note: {note}"))
    for warning in worries(config):
        print(visible(f"warning: {warning}"))
    if options.explain:
        from llmc.checks.explain import explain

        print(visible(explain(config, parts)))


def estimate_command(options: argparse.Namespace) -> None:
    """Say what a run would hold, write and compute, stage by stage, and whether it fits; no weights are read."""
    from llmc.compat.load import load_config
    from llmc.estimate.command import estimate

    config = load_config(options.config, _overrides(options))
    print(visible(estimate(config, options.budget, options.ram, options.json)))


def verify_command(options: argparse.Namespace) -> int:
    """Read a written export with an independent reader, and hold it to every rule of its runtime."""
    for path in (options.path, options.against, options.float):
        if path is not None and not path.exists():  # said before anything heavy is imported
            raise ExportError(f"{path} does not exist; give the folder of an export, of its run, or of the float model")
    from llmc.verify.run import verify

    report = verify(options.path, options.against, options.float)
    if options.json:
        import json

        print(json.dumps(report.as_json()))
        return report.exit_code
    from llmc.verify.verdict import report_table

    _show(report_table(report))
    print(report.summary())
    return report.exit_code


def list_command(options: argparse.Namespace) -> None:
    """Name every plug-in, and the configurations that ship."""
    from llmc.config.bases import described_parts, families_that_ship
    from llmc.config.reference import plugin_kinds

    for kind, plugins in plugin_kinds().items():
        print(kind)
        for name, plugin in plugins.items():
            print(f"  {name:<16}{plugin.summary()}")
    from llmc.verify.targets import summaries

    print("verify")
    for name, summary in summaries().items():
        print(f"  {name:<16}{summary}")
    for folder, parts in described_parts().items():
        print(f"{folder}, for `base`")
        for name, summary in parts.items():
            print(f"  {name:<30}{summary}")
    for family, names in families_that_ship().items():
        print(f"{family}\n  {', '.join(names)}")


def schema_command(options: argparse.Namespace) -> None:
    """Print the JSON schema of a configuration, for editors."""
    import json

    from llmc.config.json_schema import file_schema

    print(json.dumps(file_schema(), indent=1))


def _show(table: Table) -> None:
    """Print a table; by `print`, since rich has another exit code for a pipe that nobody reads."""
    from rich.console import Console

    console = Console()
    with console.capture() as shown:
        console.print(table)
    print(shown.get(), end="")


def _overrides(options: argparse.Namespace) -> list[str]:
    """What replaces values of the file: msModelSlim's four options first, so that `--set` has the last word."""
    import json

    from llmc.config.override import Option

    given = {option: getattr(options, option) for option in SHORT if getattr(options, option) is not None}
    # quoted: a folder may be called 7, or have a # in its name
    quoted = [
        Option(f"{SHORT[option]}={json.dumps(value, ensure_ascii=False)}", place=f"--{option} {value}")
        for option, value in given.items()
    ]
    return [*quoted, *options.set]


def _checked_config(path: Path, overrides: Sequence[str]) -> Config:
    from llmc.compat.load import load_config

    config = load_config(path, overrides)
    from llmc.checks.configuration import (
        check_config,  # with the exporters, which a file that is wrong need not wait for
    )

    check_config(config)
    return config


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        super().error(visible(message))


def command_parser() -> argparse.ArgumentParser:
    from llmc import __doc__ as purpose
    from llmc import __version__

    parser: argparse.ArgumentParser = _Parser("llmc", description=purpose, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"llmc {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show tracebacks, and log more")
    common.add_argument("--plugin", action="append", default=[], metavar="NAME", help="a module of your own plug-ins")
    overrides = argparse.ArgumentParser(add_help=False)
    overrides.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="a.b=c, over what the file says"
    )

    overrides.add_argument("--model_path", metavar="FOLDER", help="the float model: model.path")
    overrides.add_argument("--save_path", metavar="FOLDER", help="where to write: save.path")
    overrides.add_argument("--model_type", metavar="NAME", help="its type or family: model.type, or such as Wan2_1")
    overrides.add_argument("--device", help="base.device: auto, cpu, cuda, npu, or one of several such as npu:1")

    def add(name: str, command: object, *parents: argparse.ArgumentParser) -> argparse.ArgumentParser:
        text = (command.__doc__ or "").rstrip(".")
        added = commands.add_parser(
            name, help=text[0].lower() + text[1:], description=text, parents=[*parents, common], allow_abbrev=False
        )
        added.set_defaults(command=command)
        return added

    run = add("run", run_command, overrides)
    run.add_argument("--config", type=Path, default=DEFAULT, help="the YAML file; default: the embedded model's")
    run.add_argument("--json", action="store_true", help="end with one line of JSON that sums the run up")
    quant = add("quant", quant_command, overrides)
    quant.add_argument("--quant_type", metavar="KIND", help="a recipe that ships for the model, such as w8a8")
    quant.add_argument("--config_path", type=Path, metavar="YAML", help="your own, in place of --quant_type")
    quant.add_argument(
        "--trust_remote_code", nargs="?", const="True", default="False", type=str.capitalize,
        choices=["True", "False"], help="True: code that comes with the model may be run, where its family needs that",
    )  # fmt: skip
    quant.add_argument("--eval", action="store_true", help="also judge by videos, as the recipe says")
    quant.add_argument("--json", action="store_true", help="end with one line of JSON that sums the run up")
    check = add("check", check_command, overrides)
    check.add_argument("config", type=Path, help="the YAML file")
    check.add_argument(
        "--translate", action="store_true", help="print the configuration as llmc's own, and do nothing else"
    )
    check.add_argument(
        "--resolved", action="store_true", help="print it whole, with the files that it is built on; look at no disk"
    )
    check.add_argument("--explain", action="store_true", help="also print what each layer of the model gets")
    cost = add("estimate", estimate_command, overrides)
    cost.add_argument("config", type=Path, help="the YAML file; of the model's folder its configurations are enough")
    cost.add_argument("--budget", metavar="SIZE", help="plan for a device with so much memory, such as 24GB")
    cost.add_argument("--ram", metavar="SIZE", help="plan for a host with so much memory, such as 64GB")
    cost.add_argument("--json", action="store_true", help="print one line of JSON in place of the table")
    verify = add("verify", verify_command)
    verify.add_argument("path", type=Path, help="the folder that was exported to, or its safetensors file")
    verify.add_argument("--against", type=Path, metavar="RUN", help="the folder of the run that judged it")
    verify.add_argument(
        "--float", type=Path, metavar="MODEL", help="the folder of the float model, if the run's is gone"
    )
    verify.add_argument("--json", action="store_true", help="print one line of JSON in place of the table")
    add("list", list_command)
    add("schema", schema_command)
    return parser


if __name__ == "__main__":
    sys.exit(main())
