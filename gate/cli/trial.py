"""`gate test`: the chain on one event, without Kafka."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from gate.cli.options import Flags, Json, takes


@takes("chain")
def trial(
    flags: Flags,
    *,
    event: Annotated[Path, typer.Option(help="JSON file with the event; - for stdin.", show_default=False)],
    expect: Annotated[
        str | None,
        typer.Option(
            metavar="ANSWER",
            help="approved, denied, or the cause of a denial; exits with 1 for another answer.",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Run the chain on one event, without Kafka, by the worker's own engine.

    Exits with 0 for either answer, unless --expect says which it must be.
    """
    from gate.chain.trial import run_trial
    from gate.cli.output import print_json
    from gate.cli.running import run
    from gate.cli.worker import load_with_chain
    from gate.errors import InputError, InvalidEvent

    answers = _answers()
    if expect is not None and expect not in answers:
        raise typer.BadParameter(f"{expect!r} is none of {', '.join(answers)}", param_hint="--expect")

    from gate.cli.ask import read_event

    document = read_event(event)
    _, chain = load_with_chain(flags)
    try:
        decision = run(run_trial(chain, document))
    except InvalidEvent as error:
        raise InputError(f"{event}: {error}") from None

    if json:
        print_json(decision)
    else:
        _show(decision)

    got = {decision["status"], decision.get("denial", {}).get("cause")}
    if expect is not None and expect not in got:
        from gate.cli.output import say

        say(f"expected {expect}, got {' '.join(sorted(filter(None, got)))}")
        raise typer.Exit(1)


def _answers() -> list[str]:
    from gate.model.decision import Cause, Status

    return [*Status, *Cause]


def _show(document: dict[str, Any]) -> None:
    from rich.table import Table

    from gate.cli.output import console, status_text, told
    from gate.model.decision import Decision

    decision = Decision.from_json(document)
    out = console()
    out.print(status_text(decision))
    for name, text in told(decision):
        out.print(f"  {name:14}", text, markup=False, soft_wrap=True)

    table = Table("action", "outcome", "took", "said", box=None, header_style="dim", padding=(0, 3, 0, 0))
    for entry in document["trace"]:
        said = [*entry.get("logs", []), *([entry["error"]] if "error" in entry else [])]
        table.add_row(entry["name"], entry["outcome"], f"{entry['duration_ms']:.2f} ms", "\n".join(said))
    out.print(table)
