"""First row of DESIGN.md section 8: drain a backlog of attempts with one process."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from backlog import Record, ReplyTopic, fresh_stage, make_attempts, write_backlog
from contestants import Contestant, Gate, Peer, Running, cpu_s, peak_mb

PARTITIONS = 4
MIX = 0.1
SAMPLE_S = 0.02
STALLED_S = 60.0

ECHO = Peer(name="echo", file="echo.py")
GATE = Gate()

RATE_AT_LEAST = 0.8  # of the echo's (DESIGN.md section 8)
CPU_AT_MOST = 1.5


@dataclass(frozen=True, kw_only=True)
class Drain:
    """One drain by one contestant."""

    contestant: str
    attempts: int
    rate: float  # replies per second from the first to the last, by the broker's clock
    cpu_us: float  # per attempt, by the process's own clock, between the first and the last reply
    broker_cpu_us: float  # the same, of the broker
    start_s: float  # from the start of the process to its first reply
    peak_mb: float


@dataclass(frozen=True, kw_only=True)
class Summary:
    """Medians over rounds."""

    contestant: str
    rounds: int
    rate: float
    rate_min: float
    rate_max: float
    cpu_us: float
    broker_cpu_us: float
    start_s: float
    peak_mb: float


def summarise(drains: Sequence[Drain]) -> Summary:
    """Return the medians of one contestant's rounds."""
    rates = [drain.rate for drain in drains]
    return Summary(
        contestant=drains[0].contestant,
        rounds=len(drains),
        rate=median(rates),
        rate_min=min(rates),
        rate_max=max(rates),
        cpu_us=median(drain.cpu_us for drain in drains),
        broker_cpu_us=median(drain.broker_cpu_us for drain in drains),
        start_s=median(drain.start_s for drain in drains),
        peak_mb=median(drain.peak_mb for drain in drains),
    )


async def drain(contestant: Contestant, *, bootstrap: str, broker_pid: int, attempts: list[Record], denied: int) -> Drain:
    """Write a backlog on fresh topics, start the contestant, and watch until every attempt is answered, and rightly."""
    async with fresh_stage(bootstrap, PARTITIONS) as stage:
        await write_backlog(stage, attempts, PARTITIONS)
        async with ReplyTopic(stage, PARTITIONS) as topic:
            started = time.monotonic()
            with Running(contestant, stage) as process:
                seen, first, progress = 0, None, started
                while seen < len(attempts):
                    await asyncio.sleep(SAMPLE_S)
                    process.check()
                    count, cpu, broker = await topic.count(), cpu_s(process.pid), cpu_s(broker_pid)
                    now = time.monotonic()
                    if count > seen:
                        seen, progress = count, now
                        first = first or (count, cpu, broker, now)
                    elif now - progress > STALLED_S:
                        raise RuntimeError(
                            f"{contestant.name} stands still at {seen} of {len(attempts)} replies: {process.said()}"
                        )
                peak = peak_mb(process.pid)
            assert first is not None
            replies = await topic.read()

    expected = (
        {"approved": len(attempts) - denied, "denied": denied} if isinstance(contestant, Gate) else {"approved": len(attempts)}
    )
    given = {status: count for status, count in replies.statuses.items() if count}
    if (replies.total, len(replies.asks), given) != (len(attempts), len(attempts), expected):
        wrong = f"{replies.total} replies to {len(replies.asks)} asks, {given}, not {expected}"
        raise RuntimeError(f"{contestant.name} answered wrongly: {wrong}")
    rest = len(attempts) - first[0]
    return Drain(
        contestant=contestant.name,
        attempts=len(attempts),
        rate=len(attempts) / max(0.001, (replies.last_ms - replies.first_ms) / 1000),
        cpu_us=(cpu - first[1]) / rest * 1e6,
        broker_cpu_us=(broker - first[2]) / rest * 1e6,
        start_s=first[3] - started,
        peak_mb=peak,
    )


async def run_drain(
    contestants: Sequence[Contestant],
    *,
    bootstrap: str,
    broker_pid: int,
    count: int,
    rounds: int,
    progress: Callable[[str], None],
) -> dict[str, list[Drain]]:
    """Run rounds of all contestants, the other way round every second time, after one that warms the broker up."""
    attempts = make_attempts(count, MIX)
    drains: dict[str, list[Drain]] = {contestant.name: [] for contestant in contestants}

    async def one(contestant: Contestant, some: list[Record]) -> Drain:
        return await drain(contestant, bootstrap=bootstrap, broker_pid=broker_pid, attempts=some, denied=int(len(some) * MIX))

    for contestant in contestants:
        progress(f"warming up: {contestant.name}")
        await one(contestant, attempts[: count // 3])
    for number in range(rounds):
        for contestant in contestants if number % 2 == 0 else list(reversed(contestants)):
            progress(f"round {number + 1} of {rounds}: {contestant.name}")
            result = await one(contestant, attempts)
            drains[contestant.name].append(result)
            progress(f"round {number + 1} of {rounds}: {contestant.name}: {result.rate:,.0f}/s, {result.cpu_us:.1f} µs CPU")
    return drains


def to_json(drains: dict[str, list[Drain]]) -> dict[str, object]:
    """Return medians, ratios and every round."""
    summaries = {name: summarise(rounds) for name, rounds in drains.items() if rounds}
    document: dict[str, object] = {
        "medians": {name: asdict(summary) for name, summary in summaries.items()},
        "rounds": {name: [asdict(one) for one in rounds] for name, rounds in drains.items()},
    }
    if "gate" in summaries and "echo" in summaries:
        gate, echo = summaries["gate"], summaries["echo"]
        document["ratios"] = {"rate": round(gate.rate / echo.rate, 3), "cpu": round(gate.cpu_us / echo.cpu_us, 3)}
        document["goals"] = {"rate": RATE_AT_LEAST, "cpu": CPU_AT_MOST}
    return document
