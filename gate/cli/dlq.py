"""`gate dlq`: look at dead letters, and redrive them once their cause is mended."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from gate.cli.dlq_report import Report
from gate.cli.options import KAFKA, Flags, Json, takes

if TYPE_CHECKING:
    from gate.cli.dlq_kafka import Wanted
    from gate.model.dead_letter import Place
    from gate.tools.dlq import Selection

app = typer.Typer(help="Look at dead letters, and redrive them once their cause is mended.", no_args_is_help=True)

Reasons = Annotated[
    list[str] | None, typer.Option("--reason", metavar="REASON", help="Only this reason; repeatable.", show_default=False)
]
AttemptIds = Annotated[
    list[str] | None, typer.Option("--attempt-id", metavar="ID", help="Only this attempt; repeatable.", show_default=False)
]
Since = Annotated[
    str | None,
    typer.Option(metavar="AGE", help="Only those buried since, as in 30m, 1h or 2d; all without it.", show_default=False),
]

_UNITS_MS = {"s": 1000, "m": 60_000, "h": 3_600_000, "d": 24 * 3_600_000}


@app.command("list")
@takes(*KAFKA)
def list_(
    flags: Flags,
    *,
    reason: Reasons = None,
    attempt_id: AttemptIds = None,
    since: Since = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many, the newest.", show_default=False)] = None,
    json: Json = False,
) -> None:
    """List dead letters, the newest last: where each stands, when and why it was buried. No personal data.

    --json prints one document per line.
    """
    from gate.cli.dlq_kafka import list_letters
    from gate.cli.dlq_report import print_listing
    from gate.cli.running import run

    selection = _selection(reason, attempt_id, since)
    print_listing(run(list_letters(flags.settings(), selection, limit)), json=json)


@app.command()
@takes(*KAFKA)
def show(
    flags: Flags,
    *,
    place: Annotated[str, typer.Argument(metavar="PLACE", help="partition:offset, as `gate dlq list` prints it.")],
    personal: Annotated[
        bool, typer.Option("--show-personal-data", help="Show the attempt's value, and what else may name a person.")
    ] = False,
    json: Json = False,
) -> None:
    """Show one dead letter: its headers, what its reason means, how to mend it, what was decided and what a redrive would do.

    Exits with 1 if there is nothing at that place.
    """
    from gate.cli.dlq_kafka import show_letter
    from gate.cli.dlq_report import print_letter
    from gate.cli.output import print_json, say
    from gate.cli.running import run

    settings = flags.settings()
    document = run(show_letter(settings, _places([place])[0], personal=personal))
    if document is None:
        say(
            f"gate: there is nothing at {place} of {settings.dlq_topic}, or nothing any more; `gate dlq list` shows what is there"
        )
        raise typer.Exit(1)
    if json:
        print_json(document)
    else:
        print_letter(document)


@app.command()
@takes(*KAFKA)
def redrive(
    flags: Flags,
    *,
    place: Annotated[
        list[str] | None, typer.Argument(metavar="PLACE", help="partition:offset, as `gate dlq list` prints it.")
    ] = None,
    reason: Reasons = None,
    attempt_id: AttemptIds = None,
    all_: Annotated[bool, typer.Option("--all", help="All dead letters.")] = False,
    since: Since = None,
    decide_again: Annotated[
        bool, typer.Option("--decide-again", help="Have the chain decide anew, under a new attempt id.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and do nothing.")] = False,
    yes: Annotated[
        bool,
        typer.Option(
            "--yes", "-y", help="Do not ask on a terminal before more than one is redriven; elsewhere nothing is asked."
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Send the decisions of dead letters once more, now that their cause is mended.

    The decision is the one that the ledger has, under the attempt's own id; no action runs. An attempt without a decision
    that binds its id (invalid_attempt, expired, overloaded) is asked again under its id. --decide-again has the chain
    decide anew, under a new id.

    The dead letter topic is a log and is not changed. A decision that is redriven twice is sent twice, which is harmless;
    every --decide-again is a new attempt.

    --json prints one document per line. Exits with 1 if a letter is left as it is, which says why, or none is selected.
    """
    from gate import log
    from gate.cli.dlq_kafka import Wanted, count, redrive_letters
    from gate.cli.output import say
    from gate.cli.running import run

    settings = flags.settings()
    log.configure("error", "console")
    if [bool(place), bool(reason or attempt_id), all_].count(True) != 1 or (place and since):
        raise typer.BadParameter(
            "give either places, or --reason and --attempt-id, or --all, the last two with --since if you like",
            param_hint="PLACE",
        )
    wanted = Wanted(
        places=_places(place or []),
        selection=_selection(reason, attempt_id, since),
        dry_run=dry_run,
        decide_again=decide_again,
    )
    bounds = None
    if not (yes or dry_run) and _on_a_terminal():
        # Outside of the event loop, which would keep Ctrl-C from ending the question.
        number, bounds = run(count(settings, wanted))
        if not _confirmed(number, wanted):
            say("gate: nothing was redriven")
            raise typer.Exit(1)
    report = Report(json=json, dry_run=dry_run)
    run(redrive_letters(settings, wanted, report, bounds))
    report.close(settings.dlq_topic)
    raise typer.Exit(report.exit_code)


def _confirmed(number: int, wanted: Wanted) -> bool:
    how = " under new ids" if wanted.decide_again else ""
    return number < 2 or typer.confirm(f"Redrive {number} dead letters{how}?", err=True)


def _on_a_terminal() -> bool:
    import sys

    return sys.stdin.isatty() and sys.stderr.isatty()


def _places(texts: Sequence[str]) -> list[Place]:
    from gate.model.dead_letter import Place

    try:
        return list(dict.fromkeys(map(Place.parse, texts)))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="PLACE") from None


def _selection(reasons: list[str] | None, attempt_ids: list[str] | None, since: str | None) -> Selection:
    from gate.tools.dlq import Selection
    from gate.worker.replies import Reason

    known = [each.value for each in Reason]
    for reason in reasons or []:
        if reason not in known:
            raise typer.BadParameter(f"{reason!r} is none of {', '.join(known)}", param_hint="--reason")
    return Selection(
        reasons=frozenset(reasons or ()),
        attempt_ids=frozenset(attempt_ids or ()),
        since_ms=None if since is None else int(time.time() * 1000) - _age_ms(since),
    )


def _age_ms(text: str) -> int:
    given = re.fullmatch(r"([0-9]{1,9})([smhd])", text)
    if given is None:
        raise typer.BadParameter(f"{text!r} is not a number and s, m, h or d, as in 1h", param_hint="--since")
    return int(given[1]) * _UNITS_MS[given[2]]
