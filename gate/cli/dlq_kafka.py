"""What the commands of `gate dlq` do on Kafka; loaded when one of them runs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from gate.cli.dlq_report import Report
from gate.cli.output import say_kafka
from gate.config import Settings
from gate.kafka.connection import client_options, resolve_bootstrap, wait_for_kafka
from gate.kafka.producer import BatchProducer
from gate.kafka.reading import TopicReader
from gate.kafka.topic_list import FetchTopics
from gate.model.dead_letter import Place
from gate.tools.decided import Decided, reply_of
from gate.tools.dlq import Bounds, DeadLetters, Found, Listing, Selection
from gate.tools.dlq_show import describe
from gate.tools.redrive import Planner, left
from gate.tools.redriver import Redriver, connected


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What a redrive was asked to do: with these places or, where there are none, with this selection."""

    places: Sequence[Place]
    selection: Selection
    dry_run: bool
    decide_again: bool


@dataclass(frozen=True, kw_only=True)
class Kafka:
    """What is needed to look at dead letters."""

    bootstrap: str
    partitions: dict[str, int]  # of every topic
    reader: TopicReader
    letters: DeadLetters


@asynccontextmanager
async def opened(settings: Settings, *, say: bool = True) -> AsyncIterator[Kafka]:
    """Connect; say where to unless that was said before. Raises KafkaUnavailable, and ConfigError where the topic is missing."""
    bootstrap, source = resolve_bootstrap(settings)
    if say:
        say_kafka(bootstrap, source)
    await wait_for_kafka(settings, bootstrap)
    fetch = FetchTopics(settings, bootstrap)
    try:
        partitions = await fetch()
    finally:
        await fetch.close()
    async with TopicReader(settings, bootstrap) as reader:
        letters = DeadLetters(settings, reader, partitions)
        yield Kafka(bootstrap=bootstrap, partitions=partitions, reader=reader, letters=letters)


async def list_letters(settings: Settings, selection: Selection, limit: int | None) -> Listing:
    """Return what is selected, the newest of it."""
    listing = Listing(limit)
    async with opened(settings) as kafka:
        async for found in kafka.letters.find(selection, await kafka.letters.bounds()):
            listing.add(found)
    return listing


async def show_letter(settings: Settings, place: Place, *, personal: bool) -> dict[str, Any] | None:
    """Return what is known of the record at a place; None where there is none."""
    async with opened(settings) as kafka:
        found = await kafka.letters.at(place)
        if found is None:
            return None
        planner = Planner(settings, kafka.partitions, decide_again=False)
        why = planner.refused(found)
        if why is not None or found.letter is None:
            value = None if found.letter is None else found.letter.value
            return describe(found, value=value, decision=None, outcome=left(found, why or ""), personal=personal)
        decided = Decided(settings, kafka.reader, kafka.partitions)
        (case,) = await decided.open([found.letter])
        await decided.look_up([case])
        answer = case.answer(settings.window_ms)
        reply = None if answer is None else reply_of(case, answer)
        return describe(
            found,
            value=case.flight.ask.record.value,
            decision=None if reply is None else reply.decision,
            outcome=planner.plan(found, case),
            personal=personal,
        )


async def count(settings: Settings, wanted: Wanted) -> tuple[int, Bounds]:
    """Return how many are selected, and what was there when they were counted."""
    async with opened(settings) as kafka:
        bounds = await kafka.letters.bounds()
        number = 0
        async for _ in selected(kafka.letters, wanted, bounds, None):
            number += 1
    return number, bounds


async def redrive_letters(settings: Settings, wanted: Wanted, report: Report, bounds: Bounds | None) -> None:
    """Redrive, and report what became of each; `bounds` are those that the person was asked about."""
    async with opened(settings, say=bounds is None) as kafka:
        producer = BatchProducer(client_options(settings, kafka.bootstrap), on_restart=lambda: None)
        async with nullcontext() if wanted.dry_run else connected(producer, kafka.bootstrap):
            redriver = Redriver(
                settings,
                kafka.bootstrap,
                decided=Decided(settings, kafka.reader, kafka.partitions),
                planner=Planner(settings, kafka.partitions, decide_again=wanted.decide_again),
                producer=None if wanted.dry_run else producer,
                decide_again=wanted.decide_again,
            )
            letters = selected(kafka.letters, wanted, bounds or await kafka.letters.bounds(), report)
            async for outcome in redriver.redrive(letters):
                report.add(outcome)


async def selected(letters: DeadLetters, wanted: Wanted, bounds: Bounds, report: Report | None) -> AsyncIterator[Found]:
    """Yield what is selected; tell the report what is not there and what is nobody's attempt."""
    for place in wanted.places:
        found = await letters.at(place)
        if found is not None:
            yield found
        elif report is not None:
            report.missing(place)
    if not wanted.places:
        async for found in letters.find(wanted.selection, bounds):
            if found.letter is not None:
                yield found
            elif report is not None:
                report.strangers += 1
