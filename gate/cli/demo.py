"""`gate demo`: a minute of the real thing on this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from gate.client import GateClient
    from gate.model.decision import Decision
    from gate.tools.demo import Answer
    from gate.tools.load import LoadReport
    from gate.tools.user_service import UserService

GO_ON = """\
Go on:
  gate dev                     the same, until Ctrl-C; then, elsewhere:
  gate ask you@mail.example    an attempt of your own
  gate load --rate 500         more of them
  gate --help                  everything else; README.md has a tour"""


def demo() -> None:
    """Watch real attempts go through a real Kafka and be answered; takes a minute, leaves nothing behind."""
    from gate import log
    from gate.cli.output import console
    from gate.cli.running import run, until_signal

    log.configure("error", "console")
    code = run(until_signal(_demo(console())))
    if code:
        raise typer.Exit(code)


async def _demo(out: Console) -> int:
    import asyncio

    from gate.client import GateClient
    from gate.config import Settings, packaged
    from gate.tools.dev import everything_here, load_chain_here
    from gate.tools.user_service import UserService

    out.print("\n[bold]Registration gate:[/] may this person register, and with what metadata?\nAsked and answered over Kafka.\n")
    service = UserService()
    steps = Steps(out)
    try:
        chain = load_chain_here(packaged("actions"), service)
        steps.begin("Starting Apache Kafka, four topics and a worker")
        async with everything_here(Settings(http_port=0, log_level="error"), chain, progress=steps.note) as here:
            steps.done(f"Kafka at {here.bootstrap}, and a worker with {len(chain.actions)} actions")
            async with GateClient.from_settings(here.settings, here.bootstrap) as client:
                steps.done("A client that waits for its replies")
                playing = asyncio.create_task(_play(out, client, service), name="demo")
                watching = asyncio.create_task(here.watch(), name="watch")
                try:
                    await asyncio.wait({playing, watching}, return_when=asyncio.FIRST_COMPLETED)
                    code = (playing if playing.done() else watching).result() or 0
                finally:
                    for task in (playing, watching):
                        task.cancel()
            steps.begin("Stopping")
        steps.done("Stopped everything that was started")
    finally:
        service.close()
    out.print(f"\n{GO_ON}\n", markup=False)
    return code


async def _play(out: Console, client: GateClient, service: UserService) -> int:
    from gate.cli.load import LiveLine
    from gate.tools.demo import LOAD_DURATION_S, LOAD_RATE, ask_cases
    from gate.tools.load import run_load

    answers = [answer async for answer in ask_cases(client, service)]
    out.print()
    out.print(_table(answers))
    out.print(f"\nNow {LOAD_RATE:g} attempts a second for {LOAD_DURATION_S:g} s, a fifth of them from North America:")
    with LiveLine() as line:
        report = await run_load(client, rate=LOAD_RATE, duration_s=LOAD_DURATION_S, on_tick=line.show)
    out.print(_summary(report), markup=True)
    out.print()

    if not report.complete:
        return 4
    return 0 if all(answer.as_expected for answer in answers) else 1


def _table(answers: list[Answer]) -> Table:
    from rich.table import Table
    from rich.text import Text

    from gate.cli.output import milliseconds, status_text

    table = Table(show_edge=False, show_lines=True, header_style="bold", padding=(0, 1))
    table.add_column("who", width=30)
    table.add_column("answer", overflow="fold")
    table.add_column("took", justify="right", no_wrap=True)

    for answer in answers:
        case = answer.case
        who = Text(case.email)
        who.append(f"\n{case.story}, from {case.place.city_name}", style="dim")
        said = status_text(answer.decision)
        for text, style in _said(answer.decision):
            said.append(f"\n{text}", style=style)
        if not answer.as_expected:
            said.append("\nnot what the sample actions are there for", style="bold red")
        table.add_row(who, said, milliseconds(answer.took_s))

    return table


def _said(decision: Decision) -> Iterator[tuple[str, str]]:
    """Yield what a decision says, each line with its style: what the person is told, what to store, what goes to the logs."""
    denial = decision.denial
    if denial is not None:
        if denial.user_message is not None:
            yield f"“{denial.user_message}”", "not bold default"
        yield f"{denial.cause.value}: {denial.reason}", "not bold dim"
        if denial.action is not None:
            yield f"by {denial.action}", "not bold dim"
    for scope, changes in decision.changes.items():
        for key, value in changes.items():
            yield f"{scope}.{key} = {value}", "not bold default"
    for warning in decision.warnings:
        yield f"warning: {warning['message']}", "not bold yellow"


def _summary(report: LoadReport) -> str:
    p50, p95, p99 = (f"[bold]{report.latencies.percentile_ms(percentile):.1f} ms[/]" for percentile in (50, 95, 99))
    lost = "" if report.complete else f", [bold red]{report.sent - report.answered:,} without an answer[/]"
    answered = f"[bold]{report.answered:,}[/] of {report.sent:,} answered{lost}"
    return f"  {answered}, {report.answers_per_s:.0f}/s, {report.denied_share:.0%} denied\n  p50 {p50}   p95 {p95}   p99 {p99}"


class Steps:
    """What is being done now, and how long what is done took."""

    def __init__(self, out: Console) -> None:
        from gate.cli.output import in_place

        self._out = out
        self._began = time.perf_counter()
        self._what = ""
        self._live = in_place(out, animated=True)

    def begin(self, what: str) -> None:
        """Say what is being done."""
        self._began = time.perf_counter()
        self._what = what
        if self._live is not None:
            self._live.start()
            self._spin(what)
        else:
            self._out.print(f"{what} …", markup=False)

    def note(self, text: str) -> None:
        """Say what the step that was begun has to do first."""
        if self._live is not None:
            self._spin(f"{self._what}: {text}")
        else:
            self._out.print(f"  {text}", markup=False)

    def done(self, what: str) -> None:
        """Say that it is done."""
        if self._live is not None:
            self._live.stop()
        now = time.perf_counter()
        self._out.print(f"[green]✓[/] {what} [dim]{now - self._began:.1f} s[/]")
        self._began = now

    def _spin(self, text: str) -> None:
        from rich.spinner import Spinner

        if self._live is not None:
            self._live.update(Spinner("dots", text))
