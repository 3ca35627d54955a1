"""What `gate dlq` prints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gate.model.dead_letter import Place
    from gate.tools.dlq import Listing
    from gate.tools.redrive import Outcome


def printable(text: str) -> str:
    """Return text from outside so that a terminal shows it and does nothing else."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def print_listing(listing: Listing, *, json: bool) -> None:
    """Print dead letters, and how many there are for each reason."""
    from gate.cli.output import console, print_json, say

    rows = listing.rows
    if json:
        for row in rows:
            print_json(row.to_json())
        say(_counted(listing, len(rows)))
        return
    if rows:
        console().print(_table(listing))
    print(_counted(listing, len(rows)))


def _table(listing: Listing) -> Any:
    from rich.table import Table
    from rich.text import Text

    from gate.tools.dlq import STRANGER

    table = Table("place", "when", "reason", "attempt", "stood at")
    for column in table.columns:
        column.overflow = "fold"
    for row in listing.rows:
        letter = row.letter
        cells = (STRANGER, "", "") if letter is None else (letter.reason, row.attempt_id or "", letter.source)
        table.add_row(*(Text(printable(cell)) for cell in (str(row.place), row.at, *cells)))
    return table


def _counted(listing: Listing, shown: int) -> str:
    if not listing.total:
        return "no dead letters"
    letters = f"{listing.reasons.total()} dead letter{'' if listing.reasons.total() == 1 else 's'}"
    reasons = ", ".join(f"{printable(reason)} {number}" for reason, number in listing.reasons.most_common())
    strangers = f"; {listing.strangers} not of the gate" if listing.strangers else ""
    newest = f"; the newest {shown} are shown" if shown < listing.total else ""
    return f"{letters}{': ' if reasons else ''}{reasons}{strangers}{newest}"


def print_letter(document: Mapping[str, Any]) -> None:
    """Print one dead letter as pairs of a name and a text."""
    from gate.cli.output import console

    out = console()
    for name, text in _pairs(document):
        out.print(f"{name:12}", printable(text), markup=False, soft_wrap=True)


def _pairs(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    from gate.cli.output import compact, told
    from gate.model.decision import Decision
    from gate.tools.dlq_show import HIDDEN

    yield "place", document["place"]
    yield "when", document["at"]
    if "problem" in document:
        yield "problem", document["problem"]
        yield "value", f"{document['size_bytes']} bytes"
        return
    yield "reason", f"{document['reason']}: {document['meaning']}"
    yield "mend", document["mend"]
    yield "attempt", document["attempt_id"]
    yield "stood at", document["source"]
    yield "key", document["key"]
    for header in document["headers"]:
        yield "header", f"{header['name']}: {header['value']}"
    kept = f"{document['size_bytes']} bytes ({HIDDEN})"
    if "truncated_bytes" in document:
        kept = f"{document['truncated_bytes']} bytes, too large to be kept here"
    yield "value", document["value"] if document.get("value") is not None else kept
    decided = document["decision"]
    if decided is None:
        yield "decision", "the ledger has none that is surely its own"
    else:
        yield "decision", f"{decided['status']} at {decided['decided_at']}"
        facts = {**decided, "attempt_id": document["attempt_id"]}
        changes: dict[str, Any] = facts.pop("changes", {})
        for name, text in told(Decision.from_json(facts)):
            yield f"  {name}", text
        for scope, value in changes.items():
            yield f"  {scope}", compact(value) if isinstance(value, dict) else f"{', '.join(value)} ({HIDDEN})"
    yield "redrive", _deed(document["redrive"], dry_run=True)


class Report:
    """Prints what becomes of dead letters while it happens, and what it came to."""

    def __init__(self, *, json: bool, dry_run: bool) -> None:
        self._json = json
        self._dry_run = dry_run
        self.strangers = 0  # that nobody asked for by their place
        self._good = 0
        self._left = 0
        self._missing = 0

    @property
    def total(self) -> int:
        """How many were taken."""
        return self._good + self._left

    @property
    def exit_code(self) -> int:
        """0 if there was something to do and all of it is done."""
        return 0 if self._good and not self._left and not self._missing else 1

    def add(self, outcome: Outcome) -> None:
        """Print one."""
        from gate.cli.output import print_json

        if outcome.good:
            self._good += 1
        else:
            self._left += 1
        document = outcome.to_json()
        if self._json:
            print_json({**document, "dry_run": True} if self._dry_run else document)
        else:
            name = document.get("attempt_id", "")
            print(
                f"{document['place']}  {printable(name)}{'  ' if name else ''}{printable(_deed(document, self._dry_run))}",
                flush=True,
            )

    def missing(self, place: Place) -> None:
        """Say that there is nothing at a place."""
        from gate.cli.output import say

        self._missing += 1
        say(f"gate: there is nothing at {place}, or nothing any more; `gate dlq list` shows what is there")

    def close(self, topic: str) -> None:
        """Print what it came to."""
        from gate.cli.output import say

        if self.strangers:
            say(f"{self.strangers} records of {topic} are not dead letters of the gate, and were left alone")
        if not self.total:
            if not self._missing:
                say(f"gate: no dead letter of {topic} is selected; `gate dlq list` shows what is there")
            return
        done = "to be redriven" if self._dry_run else "redriven"
        text = f"{self._good} {done}, {self._left} left"
        if self._json:
            say(text)
        else:
            print(text)


def _deed(document: Mapping[str, Any], dry_run: bool) -> str:
    match document["deed"]:
        case "decision_sent":
            cause = f" ({document['cause']})" if "cause" in document else ""
            text = f"its decision, {document['status']}{cause}, {{}} sent again to {document['topic']}-{document['partition']}"
        case "asked_again":
            text = f"{{}} asked again under its own id, in {document['topic']}-{document['partition']}"
        case "asked_anew":
            text = f"{{}} asked anew as {document['new_attempt_id']}"
        case "repeated":
            text = "{} not taken twice: another letter is of the same attempt"
        case _:
            return f"left: {document['why']}"
    return text.replace("{}", "would be" if dry_run else "was")
