"""What can be known to fail before a model is loaded: inputs that are not there, sizes, outputs in the way, targets."""

from __future__ import annotations

from llmc.checks.inputs import input_problems
from llmc.checks.outputs import output_problems
from llmc.checks.recipes import recipe_problems
from llmc.config.explain import Problem, problems_error
from llmc.config.schema import Config


def check_config(config: Config) -> None:
    """Refuse what could not succeed, all of it at once, each with the line of its key."""
    problems = config_problems(config)
    if problems:
        raise problems_error(problems, config.source)


def check_outputs(config: Config) -> None:
    """Refuse folders that cannot be written to, or hold something else."""
    if problems := list(output_problems(config)):
        raise problems_error(problems, config.source)


def config_problems(config: Config) -> list[Problem]:
    """Everything that is wrong outside of the file itself, in the order of its sections."""
    return [*input_problems(config), *recipe_problems(config), *output_problems(config)]
