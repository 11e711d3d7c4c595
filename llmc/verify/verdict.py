"""What verifying found: a verdict for each rule, as a table or as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVarTuple

if TYPE_CHECKING:
    from rich.table import Table

About = TypeVarTuple("About")
Status = Literal["pass", "fail", "not checked"]
SHOWN = 4  # problems of one rule that the table names; the JSON has all


@dataclass(frozen=True)
class Checked:
    """What one rule found: the problems, none if all is well, and figures or facts worth a line."""

    problems: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True)
class NotChecked:
    """Why a rule could not be applied."""

    why: str


Finding = Checked | NotChecked


@dataclass(frozen=True)
class Verdict:
    """One rule on one folder."""

    folder: str  # below the export's own; empty for itself
    rule: str
    status: Status
    problems: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Report:
    """Every rule of a target, on one export."""

    path: str
    target: str
    verdicts: tuple[Verdict, ...]

    @property
    def passed(self) -> bool:
        """Whether no rule failed."""
        return all(verdict.status != "fail" for verdict in self.verdicts)

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        rules = [
            {"folder": v.folder, "rule": v.rule, "status": v.status, "problems": list(v.problems), "note": v.note}
            for v in self.verdicts
        ]
        return {"path": self.path, "target": self.target, "passed": self.passed, "rules": rules}


def some(names: list[str], shown: int = 3) -> str:
    """The first of them, and how many more."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{', '.join(names[:shown])}{more}"


def verdict(folder: str, rule: str, finding: Finding) -> Verdict:
    """A rule's finding, judged."""
    if isinstance(finding, NotChecked):
        return Verdict(folder, rule, "not checked", note=finding.why)
    return Verdict(folder, rule, "fail" if finding.problems else "pass", tuple(finding.problems), finding.note)


def apply_rules(
    folder: str, rules: Mapping[str, Callable[[*About], Finding]], *about: *About, why_not: str = ""
) -> Iterator[Verdict]:
    """A verdict for each rule, on what they are about; none of them is applied where there is a reason why not."""
    for rule, of in rules.items():
        yield verdict(folder, rule, NotChecked(why_not) if why_not else of(*about))


def report_table(report: Report) -> Table:
    """For a terminal."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # Text, since a name with [brackets] is markup to rich
    table = Table(title=Text(f"{report.path}: {report.target}"), title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("rule", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("", overflow="fold")
    styles = {"pass": "green", "fail": "bold red", "not checked": "dim"}
    for each in report.verdicts:
        more = [f"and {len(each.problems) - SHOWN} more"] if len(each.problems) > SHOWN else []
        lines = [*each.problems[:SHOWN], *more, *([each.note] if each.note else [])]
        rule = f"{each.folder}: {each.rule}" if each.folder else each.rule
        table.add_row(Text(rule), Text(each.status, style=styles[each.status]), Text("\n".join(lines)))
    return table
