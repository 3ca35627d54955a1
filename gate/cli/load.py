"""`gate load`: ask at a fixed rate and show how long the answers take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gate.cli.options import KAFKA, Flags, Json, takes

if TYPE_CHECKING:
    from gate.config import Settings
    from gate.tools.load import LoadReport

PLAIN_LINE_EVERY_S = 5.0


@takes(*KAFKA)
def load(
    flags: Flags,
    *,
    rate: Annotated[float, typer.Option("--rate", "-r", min=0.1, help="Attempts per second.")] = 100.0,
    duration: Annotated[float, typer.Option("--duration", "-d", min=0.1, help="Seconds.")] = 10.0,
    mix: Annotated[float, typer.Option(min=0, max=1, help="Share of events that the sample chain denies.")] = 0.2,
    timeout: Annotated[float, typer.Option(min=0.001, help="Seconds to wait for each answer.")] = 5.0,
    json: Json = False,
) -> None:
    """Ask at a fixed rate, whatever the answers do, and show percentiles of how long they take.

    Latency counts from the time an attempt was due, so waiting that was hidden by a slow generator is not lost.
    Ctrl-C ends it and shows what was measured. Exits with 4 if an attempt got no answer.
    """
    from gate.cli.output import console, print_json
    from gate.cli.running import INTERRUPTED, run, until_signal
    from gate.tools.load import render

    line = LiveLine()
    with line:
        whole = run(until_signal(_load(flags.settings(), line, rate=rate, duration_s=duration, mix=mix, timeout_s=timeout)))

    report = whole or line.report
    if report is None:
        raise typer.Exit(INTERRUPTED)
    if json:
        print_json(report.to_json())
    else:
        console().print(render(report))
    if whole is None:
        raise typer.Exit(INTERRUPTED)
    if not report.complete:
        raise typer.Exit(4)


async def _load(
    settings: Settings, line: LiveLine, *, rate: float, duration_s: float, mix: float, timeout_s: float
) -> LoadReport:
    from gate.cli.output import say_kafka
    from gate.client import GateClient
    from gate.kafka.connection import resolve_bootstrap
    from gate.tools.load import run_load

    bootstrap, source = resolve_bootstrap(settings)
    say_kafka(bootstrap, source)
    async with GateClient.from_settings(settings, bootstrap) as client:
        return await run_load(client, rate=rate, duration_s=duration_s, mix=mix, timeout_s=timeout_s, on_tick=line.show)


class LiveLine:
    """The state of a load while it runs: one line rewritten in place on a terminal, a new one now and then elsewhere."""

    def __init__(self) -> None:
        from gate.cli.output import console, in_place

        self._console = console(stderr=True)
        self._live = in_place(self._console, animated=False)
        self._next_s = PLAIN_LINE_EVERY_S
        self.report: LoadReport | None = None  # as it stood last

    def __enter__(self) -> LiveLine:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_error: object) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, report: LoadReport) -> None:
        """Show the report as it stands."""
        from gate.tools.load import render_tick

        self.report = report
        line = render_tick(report)
        line.no_wrap, line.overflow = True, "crop"
        if self._live is not None:
            self._live.update(line, refresh=True)
        elif report.elapsed_s >= self._next_s:
            self._next_s += PLAIN_LINE_EVERY_S
            self._console.print(line, no_wrap=True, overflow="crop")
