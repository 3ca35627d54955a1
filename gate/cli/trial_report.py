"""What `gate test` prints: one answer in full, or a line for each case and why those differ that do."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from gate.cli.output import console, milliseconds, status_text, told
from gate.model.decision import Decision
from gate.testing.difference import shown
from gate.testing.result import error_of

if TYPE_CHECKING:
    from gate.testing.cases import Case
    from gate.testing.difference import Difference
    from gate.testing.suite import Verdict

PASSED, FAILED, ONLY_RAN = Text("✓", "green"), Text("✗", "bold red"), Text("·", "dim")
MAX_NAME = 60


def print_answer(reply: dict[str, Any]) -> None:
    """Print the decision on one event and what each action did."""
    decision = Decision.from_json(reply)
    out = console()
    out.print(status_text(decision))
    for name, text in told(decision):
        out.print(f"  {name:14}", text, markup=False, soft_wrap=True)

    table = Table("action", "outcome", "took", "said", box=None, header_style="dim", padding=(0, 3, 0, 0))
    for entry in reply["trace"]:
        table.add_row(entry["name"], _outcome(entry), f"{entry['duration_ms']:.2f} ms", Text("\n".join(_said(entry))))
    out.print(table)


def _said(entry: dict[str, Any]) -> list[str]:
    """Return what an action has logged and, at last, raised."""
    error = error_of(entry)
    return [*entry.get("logs", []), *([] if error is None else [error])]


def _outcome(entry: dict[str, Any]) -> str:
    tries = entry.get("tries", 1)
    return entry["outcome"] if tries == 1 else f"{entry['outcome']}, {tries} tries"


class Report:
    """The cases of one run: each printed when it is added, unless `quiet`."""

    def __init__(self, cases: Sequence[Case], *, left_out: int, quiet: bool) -> None:
        self.verdicts: list[Verdict] = []
        self._left_out = left_out
        self._quiet = quiet
        self._width = min(MAX_NAME, max(len(case.name) for case in cases))
        self._console = console()
        self._begun_s = time.perf_counter()

    @property
    def failed(self) -> int:
        """How many cases differ from what they expect."""
        return sum(not verdict.passed for verdict in self.verdicts)

    def add(self, verdict: Verdict) -> None:
        """Take the next verdict, and print it."""
        self.verdicts.append(verdict)
        if self._quiet:
            return

        self._console.print(self._line(verdict), soft_wrap=True)
        if not verdict.passed:
            for line in self._reasons(verdict):
                self._console.print(line, soft_wrap=True)

    def print_summary(self) -> None:
        """Print how many passed and failed, and how long all took."""
        failed = self.failed
        only_ran = sum(verdict.case.expectation is None for verdict in self.verdicts)
        parts = [f"{len(self.verdicts) - failed} passed" + (f" ({only_ran} without expectation)" if only_ran else "")]
        if failed:
            parts.append(f"{failed} failed")
        took = f"in {time.perf_counter() - self._begun_s:.2f} s"
        left_out = f", {self._left_out} left out by -k" if self._left_out else ""
        self._console.print(Text(f"{', '.join(parts)} {took}{left_out}", "bold red" if failed else "bold green"))

    def to_json(self) -> dict[str, Any]:
        """Return the report as one document."""
        failed = self.failed
        return {
            "passed": len(self.verdicts) - failed,
            "failed": failed,
            "cases": [verdict.to_json() for verdict in self.verdicts],
        }

    def _line(self, verdict: Verdict) -> Text:
        mark = FAILED if not verdict.passed else ONLY_RAN if verdict.case.expectation is None else PASSED
        decision = Decision.from_json(verdict.reply)
        line = Text.assemble(mark, f" {verdict.case.name:{self._width}}  ", status_text(decision))
        if decision.denial is not None:
            line.append(f" {dict(told(decision))['cause']}")
        return line.append(f"  {milliseconds(verdict.took_s)}", "dim")

    def _reasons(self, verdict: Verdict) -> Iterator[Text]:
        for difference in verdict.differences:
            yield from _difference(difference)
        for warning in verdict.reply["warnings"]:
            yield Text.assemble("    warning ", warning["code"], (f": {warning['message']}", "dim"))

        entries = verdict.reply["trace"]
        width = max((len(entry["name"]) for entry in entries), default=0)
        for entry in entries:
            yield Text(f"    {entry['name']:{width}}  {_outcome(entry):11}  {entry['duration_ms']:.2f} ms", "dim")
            for line in _said(entry):
                yield Text.assemble(("      │ ", "dim"), line)


def _difference(difference: Difference) -> Iterator[Text]:
    yield Text(f"    {difference.path}", "bold")
    wanted = difference.wanted
    yield Text.assemble(f"      {wanted}  ", (shown(difference.expected), "green"))
    yield Text.assemble(f"      {'got':{len(wanted)}}  ", (shown(difference.got), "red"))
