"""`gate demo`: a minute of the real thing on this machine."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from gate.client import GateClient
    from gate.tools.demo import Answer
    from gate.tools.load import LoadReport
    from gate.tools.user_service import UserService

GO_ON = """\
Go on:
  gate dev                              the same, until you press Ctrl-C
  gate ask you@mail.example             one attempt of your own, in another terminal
  gate test --event event.json          the actions alone, without Kafka
  gate --help                           everything else; README.md has a tour"""


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

    out.print("\n[bold]Registration gate:[/] may this person register, and with what metadata? Asked and answered over Kafka.\n")
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

    from gate.cli.output import milliseconds, status_text, told

    table = Table(show_edge=False, show_lines=True, header_style="bold", padding=(0, 1))
    table.add_column("who", no_wrap=True)
    table.add_column("from")
    table.add_column("answer", no_wrap=True)
    table.add_column("and with it")
    table.add_column("took", justify="right", no_wrap=True)

    for answer in answers:
        case = answer.case
        who = Text(case.email)
        who.append(f"\n{case.story}", style="dim")
        with_it = Text()
        for index, (name, text) in enumerate(told(answer.decision)):
            with_it.append(("\n" if index else "") + f"{name} ", style="dim")
            with_it.append(text)
        status = status_text(answer.decision)
        if not answer.as_expected:
            status.append("\nnot as expected", style="red")
        table.add_row(who, f"{case.place.city_name}, {case.place.country_code}", status, with_it, milliseconds(answer.took_s))

    return table


def _summary(report: LoadReport) -> str:
    latency = report.latencies.percentile_ms
    answered = f"{report.answered:,} of {report.sent:,}"
    return (
        f"  [bold]{answered}[/] answered, {report.answers_per_s:.0f}/s"
        f"   p50 [bold]{latency(50):.1f} ms[/]   p95 [bold]{latency(95):.1f} ms[/]   p99 [bold]{latency(99):.1f} ms[/]"
        f"   denied {report.denied_share:.0%}"
        + ("" if report.complete else f"   [bold red]{report.sent - report.answered:,} without an answer[/]")
    )


class Steps:
    """What is being done now, and how long what is done took."""

    def __init__(self, out: Console) -> None:
        self._out = out
        self._began = time.perf_counter()
        self._what = ""
        self._status = out.status("") if out.is_terminal and not out.is_dumb_terminal else None

    def begin(self, what: str) -> None:
        """Say what is being done."""
        self._began = time.perf_counter()
        self._what = what
        if self._status is not None:
            self._status.update(what)
            self._status.start()
        else:
            self._out.print(f"{what} …", markup=False)

    def note(self, text: str) -> None:
        """Say what the step that was begun has to do first."""
        if self._status is not None:
            self._status.update(f"{self._what}: {text}")
        else:
            self._out.print(f"  {text}", markup=False)

    def done(self, what: str) -> None:
        """Say that it is done."""
        if self._status is not None:
            self._status.stop()
        now = time.perf_counter()
        self._out.print(f"[green]✓[/] {what} [dim]{now - self._began:.1f} s[/]")
        self._began = now
