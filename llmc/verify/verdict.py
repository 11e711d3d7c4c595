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
RUN = "--against RUN, the folder of the run that wrote it"
FLOAT = "--float MODEL, the folder of the float model"


@dataclass(frozen=True)
class Checked:
    """What one rule found: the problems, none if all is well, and figures or facts worth a line."""

    problems: Sequence[str] = ()
    note: str = ""


@dataclass(frozen=True)
class NotChecked:
    """Why a rule could not be applied, and what to give so that it can be; empty: nothing helps but what `why` says."""

    why: str
    give: str = ""


Finding = Checked | NotChecked


@dataclass(frozen=True)
class Verdict:
    """One rule on one folder."""

    folder: str  # below the export's own; empty for itself
    rule: str
    status: Status
    problems: tuple[str, ...] = ()
    note: str = ""
    give: str = ""


@dataclass(frozen=True)
class Report:
    """Every rule of a target, on one export."""

    path: str
    target: str
    verdicts: tuple[Verdict, ...]

    @property
    def failed(self) -> bool:
        """Whether a rule was broken."""
        return any(verdict.status == "fail" for verdict in self.verdicts)

    @property
    def unproven(self) -> tuple[Verdict, ...]:
        """The rules that were not checked."""
        return tuple(verdict for verdict in self.verdicts if verdict.status == "not checked")

    @property
    def passed(self) -> bool:
        """Whether every rule was applied, and held."""
        return not self.failed and not self.unproven

    @property
    def exit_code(self) -> int:
        """0 passed, 1 failed, 3 no rule broken and some not checked; 2 is for what cannot be verified at all."""
        return 1 if self.failed else 3 if self.unproven else 0

    @property
    def wanted(self) -> list[str]:
        """What to give for the rules that were not checked."""
        return list(dict.fromkeys(verdict.give for verdict in self.unproven if verdict.give))

    def summary(self) -> str:
        """The last line of all."""
        if self.failed:
            return "failed"
        if not self.unproven:
            return "passed"
        count = len(self.unproven)
        wanted = "".join(f"\n  give {what}" for what in self.wanted)
        return f"passed, {count} {'rule' if count == 1 else 'rules'} not checked{wanted}"

    def as_json(self) -> dict[str, Any]:
        """For `--json`."""
        rules = [
            {"folder": v.folder, "rule": v.rule, "status": v.status, "problems": list(v.problems), "note": v.note}
            for v in self.verdicts
        ]
        counts = {"passed": self.passed, "failed": self.failed, "not_checked": len(self.unproven), "give": self.wanted}
        return {"path": self.path, "target": self.target, **counts, "rules": rules}


def some(names: Sequence[str], shown: int = 3) -> str:
    """The first of them, and how many more."""
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{', '.join(names[:shown])}{more}"


def verdict(folder: str, rule: str, finding: Finding) -> Verdict:
    """A rule's finding, judged."""
    if isinstance(finding, NotChecked):
        return Verdict(folder, rule, "not checked", note=finding.why, give=finding.give)
    return Verdict(folder, rule, "fail" if finding.problems else "pass", tuple(finding.problems), finding.note)


def apply_rules(
    folder: str, rules: Mapping[str, Callable[[*About], Finding]], *about: *About, why_not: NotChecked | None = None
) -> Iterator[Verdict]:
    """A verdict for each rule, on what they are about; none of them is applied where there is a reason why not."""
    for rule, of in rules.items():
        yield verdict(folder, rule, of(*about) if why_not is None else why_not)


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
