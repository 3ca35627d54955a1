"""`gate ask`: one attempt, its decision, and how long it took."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gate.cli.options import KAFKA, Flags, Json, takes

if TYPE_CHECKING:
    from gate.config import Settings
    from gate.model.decision import Decision


@takes(*KAFKA)
def ask(
    flags: Flags,
    *,
    email: Annotated[
        str | None, typer.Argument(help="Address of somebody who fills in the signup form.", show_default=False)
    ] = None,
    event: Annotated[
        Path | None, typer.Option(help="JSON file with the event to send instead; - for stdin.", show_default=False)
    ] = None,
    place: Annotated[
        str, typer.Option("--from", metavar="PLACE", help="Where EMAIL signs up: lisbon, nairobi, osaka, lima, denver or merida.")
    ] = "lisbon",
    with_: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="PATH=VALUE",
            help="Change the event, as in request.language=es; VALUE is JSON or text.",
            show_default=False,
        ),
    ] = None,
    attempt_id: Annotated[
        str | None, typer.Option(help="Id of the attempt; the same one gets the same decision.", show_default=False)
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds to wait for the answer.")] = 5.0,
    json: Json = False,
) -> None:
    """Ask once whether somebody may register.

    Exits with 0 for either answer and with 4 if none came in time.
    """
    from gate.cli.output import console, decision_json, milliseconds, print_json, status_text, told
    from gate.cli.running import run
    from gate.log import harmless

    document = _event(email, event, place)
    for change in with_ or []:
        _change(document, change)

    decision, took_s = run(_ask(flags.settings(), document, attempt_id, timeout))

    if json:
        print_json({**decision_json(decision), "took_ms": round(took_s * 1000, 3)})
        return

    out = console()
    out.print(status_text(decision), f"in {milliseconds(took_s)}", soft_wrap=True)
    for name, text in (*told(decision), ("attempt", harmless(decision.attempt_id))):
        out.print(f"  {name:14}", text, markup=False, soft_wrap=True)


def _event(email: str | None, event: Path | None, place: str) -> dict[str, Any]:
    from gate.tools import ask as events

    if event is not None and email is None:
        return read_event(event)
    if email is None or event is not None:
        raise typer.BadParameter("give either an e-mail address or --event FILE", param_hint="EMAIL")

    places = {
        "lisbon": events.LISBON,
        "nairobi": events.NAIROBI,
        "osaka": events.OSAKA,
        "lima": events.LIMA,
        "denver": events.DENVER,
        "merida": events.MERIDA,
    }
    if place not in places:
        raise typer.BadParameter(f"{place!r} is none of {', '.join(places)}", param_hint="--from")
    return events.build_event(email, place=places[place])


def read_event(path: Path) -> dict[str, Any]:
    """Return the JSON object of a file, or of stdin for `-`; raise InputError where there is none."""
    import sys

    import orjson

    from gate.errors import InputError

    try:
        content = sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
        document = orjson.loads(content)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except orjson.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}") from None
    if not isinstance(document, dict):
        raise InputError(f"{path}: not a JSON object; an event starts with {{")
    return document


def _change(document: dict[str, Any], text: str) -> None:
    import orjson

    from gate.testing.cases import change

    path, equals, given = text.partition("=")
    if not equals:
        raise typer.BadParameter(f"{text!r} is not PATH=VALUE", param_hint="--with")
    try:
        value = orjson.loads(given)
    except orjson.JSONDecodeError:
        value = given
    try:
        change(document, path, value)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r}: {error}", param_hint="--with") from None


async def _ask(settings: Settings, event: dict[str, Any], attempt_id: str | None, timeout_s: float) -> tuple[Decision, float]:
    from gate.cli.output import say_kafka
    from gate.client import GateClient
    from gate.kafka.connection import resolve_bootstrap

    bootstrap, source = resolve_bootstrap(settings)
    say_kafka(bootstrap, source)
    async with GateClient.from_settings(settings, bootstrap) as client:
        started = time.perf_counter()
        decision = await client.ask(event, timeout_s=timeout_s, attempt_id=attempt_id)
        return decision, time.perf_counter() - started
