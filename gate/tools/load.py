"""Ask at a fixed rate, whatever the answers do, and measure how long they take.

The load is an open loop: attempt i is due at `i / rate` seconds, its latency counts from then, and a slow answer delays
no later ask. A generator that waits for answers, or counts from when it got round to asking, hides exactly the waits
that people see (coordinated omission).
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from hdrh.histogram import HdrHistogram
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gate.errors import AskTimeout, GateError
from gate.model.decision import Decision
from gate.tools.ask import REFUSED, WELCOME, build_event

PERCENTILES: Final = (50.0, 90.0, 95.0, 99.0, 99.9)

ON_SCHEDULE_MS: Final = 10.0
"""The generator kept its schedule if 99 % of the asks left at most this late; else the latencies speak of it, not of the gate."""

TICK_S: Final = 0.5
"""How often `on_tick` is called. A percentile takes the histogram 1.3 ms, in which nobody is asked."""


class Asks(Protocol):
    """What the load is put on; GateClient is one."""

    async def ask(self, event: Mapping[str, Any], *, timeout_s: float, attempt_id: str | None = None) -> Decision:
        """Return the decision or raise AskTimeout."""


class Latencies:
    """Durations in seconds, kept as an HDR histogram: 1 µs to 10 minutes, three significant digits."""

    def __init__(self) -> None:
        self._histogram = HdrHistogram(1, 600_000_000, 3)
        self._sum_s = 0.0
        self.count = 0
        self.max_s = 0.0

    def record(self, seconds: float) -> None:
        """Add one; what is outside the range counts as its nearest end."""
        self._histogram.record_value(min(600_000_000, max(1, round(seconds * 1e6))))
        self._sum_s += seconds
        self.count += 1
        self.max_s = max(self.max_s, seconds)

    def percentile_ms(self, percentile: float) -> float:
        """Return the duration that `percentile` per cent do not exceed, 0 where there is none."""
        return self._histogram.get_value_at_percentile(percentile) / 1000 if self.count else 0.0

    def to_json(self) -> dict[str, float]:
        """Return percentiles, mean and maximum in milliseconds."""
        document = {f"p{percentile:g}": round(self.percentile_ms(percentile), 3) for percentile in PERCENTILES}
        document["mean"] = round(self._sum_s / self.count * 1000, 3) if self.count else 0.0
        document["max"] = round(self.max_s * 1000, 3)
        return document


@dataclass(slots=True, kw_only=True)
class LoadReport:
    """What a load came to; filled while it runs."""

    rate: float  # asks per second that were to be made
    duration_s: float
    mix: float  # share of events that the sample chain denies
    timeout_s: float
    sent: int = 0
    approved: int = 0
    denied: Counter[str] = field(default_factory=Counter)  # by cause
    lost: int = 0  # no answer within the time limit
    errors: Counter[str] = field(default_factory=Counter)  # by class name: asks that failed otherwise
    elapsed_s: float = 0.0  # from the first ask's time to the last answer; while it runs, to the last tick
    last_answer_s: float = 0.0
    latencies: Latencies = field(default_factory=Latencies)  # of answers, from the scheduled time
    delays: Latencies = field(default_factory=Latencies)  # from the scheduled time until the generator asked

    @property
    def answered(self) -> int:
        """Asks with an answer."""
        return self.approved + self.denied.total()

    @property
    def waiting(self) -> int:
        """Asks that are still open."""
        return self.sent - self.answered - self.lost - self.errors.total()

    @property
    def answers_per_s(self) -> float:
        """Answers by the time they took altogether."""
        return self.answered / self.elapsed_s if self.elapsed_s else 0.0

    @property
    def denied_share(self) -> float:
        """Share of answers that are denials."""
        return self.denied.total() / self.answered if self.answered else 0.0

    @property
    def kept_schedule(self) -> bool:
        """Whether the generator asked when it was to ask."""
        return self.delays.percentile_ms(99) <= ON_SCHEDULE_MS

    @property
    def complete(self) -> bool:
        """Whether every ask was answered."""
        return self.sent == self.answered

    def to_json(self) -> dict[str, Any]:
        """Return the document of `gate load --json`."""
        return {
            "rate": self.rate,
            "duration_s": self.duration_s,
            "mix": self.mix,
            "timeout_s": self.timeout_s,
            "sent": self.sent,
            "answered": self.answered,
            "approved": self.approved,
            "denied": dict(self.denied),
            "lost": self.lost,
            "errors": dict(self.errors),
            "elapsed_s": round(self.elapsed_s, 3),
            "answers_per_s": round(self.answers_per_s, 1),
            "denied_share": round(self.denied_share, 4),
            "latency_ms": self.latencies.to_json(),
            "schedule_delay_ms": self.delays.to_json(),
            "kept_schedule": self.kept_schedule,
        }

    def record(self, result: Decision | GateError, *, latency_s: float, at_s: float) -> None:
        """Count how one ask ended, `latency_s` after it was due and `at_s` after the load began."""
        if isinstance(result, AskTimeout) or (isinstance(result, Decision) and result.assumed):
            self.lost += 1
        elif isinstance(result, GateError):
            self.errors[type(result).__name__] += 1
        else:
            self.latencies.record(latency_s)
            self.last_answer_s = at_s
            if result.denial is None:
                self.approved += 1
            else:
                self.denied[result.denial.cause.value] += 1


def load_events(mix: float, run: str) -> Iterator[dict[str, Any]]:
    """Yield events without end, each of another person.

    Of the first n, `floor(n * mix)` come from places that the sample chain refuses; they are evenly spread.
    """
    index = refused = 0
    while True:
        index += 1
        if int(index * mix) > refused:
            place = REFUSED[refused % len(REFUSED)]
            refused += 1
        else:
            place = WELCOME[(index - refused) % len(WELCOME)]
        yield build_event(f"person.{run}.{index}@mail.example", place=place)


async def run_load(
    client: Asks,
    *,
    rate: float,
    duration_s: float,
    mix: float = 0.2,
    timeout_s: float = 5.0,
    on_tick: Callable[[LoadReport], None] | None = None,
) -> LoadReport:
    """Make `rate * duration_s` asks, each at its time, and return what they came to once all have ended.

    `on_tick` gets the report as it stands, twice a second. Cancelling this cancels the asks that wait.
    """
    report = LoadReport(rate=rate, duration_s=duration_s, mix=mix, timeout_s=timeout_s)
    total = max(1, round(rate * duration_s))
    events = load_events(mix, uuid.uuid4().hex[:8])
    clock = time.perf_counter

    async def ask(event: dict[str, Any], due: float) -> None:
        report.delays.record(clock() - due)
        try:
            result: Decision | GateError = await client.ask(event, timeout_s=timeout_s)
        except GateError as error:
            result = error
        now = clock()
        report.record(result, latency_s=now - due, at_s=now - begun)

    async def tick() -> None:
        while True:
            await asyncio.sleep(TICK_S)
            report.elapsed_s = clock() - begun
            if on_tick is not None:
                on_tick(report)

    begun = clock()
    async with asyncio.TaskGroup() as group:
        ticker = group.create_task(tick(), name="load ticks")
        try:
            async with asyncio.TaskGroup() as asks:
                while report.sent < total:
                    due = begun + report.sent / rate
                    wait = due - clock()
                    # Sleeping even when late lets the answers in: the loop would otherwise starve what it measures.
                    if wait > 0 or report.sent % 64 == 0:
                        await asyncio.sleep(max(0.0, wait))
                    asks.create_task(ask(next(events), due))
                    report.sent += 1
        finally:
            ticker.cancel()
    report.elapsed_s = report.last_answer_s
    if on_tick is not None:
        on_tick(report)
    return report


# -- For people --------------------------------------------------------------------------------------------------------


def render_tick(report: LoadReport) -> Text:
    """Return the live line of a load that runs."""
    text = Text()
    text.append(f"{report.elapsed_s:5.1f} s  ", style="dim")
    text.append(f"{report.sent:,} asked  ")
    text.append(f"{report.answered:,} answered", style="green")
    text.append(f"  {report.waiting:,} waiting")
    text.append(f"  p50 {_ms(report.latencies.percentile_ms(50))}  p99 {_ms(report.latencies.percentile_ms(99))}")
    text.append(f"  denied {report.denied_share:.0%}")
    if report.lost or report.errors:
        text.append(f"  {report.lost + report.errors.total():,} lost", style="bold red")
    return text


def render(report: LoadReport) -> RenderableType:
    """Return the report as a table, and what to make of it where something went wrong."""
    table = Table(title=f"{report.sent:,} attempts at {report.rate:g}/s", title_justify="left", show_header=False)
    table.add_column(style="dim")
    table.add_column(justify="right")
    table.add_row("answered", f"{report.answered:,} ({report.answers_per_s:,.0f}/s)")
    table.add_row("approved", f"{report.approved:,}")
    for cause, count in report.denied.most_common():
        table.add_row(f"denied: {cause}", f"{count:,}")
    table.add_row("lost", Text(f"{report.lost:,}", style="bold red" if report.lost else "green"))
    for name, count in report.errors.most_common():
        table.add_row(f"failed: {name}", Text(f"{count:,}", style="bold red"))
    table.add_section()
    for percentile in PERCENTILES:
        table.add_row(f"p{percentile:g}", _ms(report.latencies.percentile_ms(percentile)))
    table.add_row("max", _ms(report.latencies.max_s * 1000))
    table.add_section()
    table.add_row("schedule: p99 late", _ms(report.delays.percentile_ms(99)))
    table.add_row("schedule: worst late", _ms(report.delays.max_s * 1000))
    if report.kept_schedule:
        return table
    verdict = (
        f"The generator was late ({ON_SCHEDULE_MS:g} ms are allowed to 1 % of the asks): this machine is too busy for this rate."
    )
    return Group(table, Text(verdict, style="yellow"))


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:,.1f} ms" if milliseconds < 100 else f"{milliseconds:,.0f} ms"
