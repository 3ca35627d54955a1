"""Find out what the ledger says of dead letters: the very answer that the worker gave, by rule 1 of the protocol."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from gate.chain.texts import load_texts
from gate.config import Settings
from gate.kafka.reading import TopicReader
from gate.ledger.answer import Answer, Entry, answer
from gate.model.dead_letter import DeadLetter
from gate.model.decision import Decision, Scope
from gate.model.wire import Message, Record, encode_reply, read_ledger
from gate.worker.deciding import AttemptReader, answer_document
from gate.worker.partitions import CLOCK_ALLOWANCE_MS, Flight
from gate.worker.replies import Reason

LOOK_BACK_MS: Final = 24 * 3_600_000
"""How long before it was buried an attempt may have come, where nothing says when it came."""


@dataclass(slots=True, kw_only=True)
class Case:
    """A dead letter, read as the ask that it was, and what the ledger has of its attempt id."""

    letter: DeadLetter
    flight: Flight
    stamped: bool  # the ask's time is known; else it is when it was buried
    whole: bool  # its value is known
    entries: list[Entry] = field(default_factory=list)  # of its id, in ledger order
    reached: bool = False  # the ledger goes back to all that could have decided it

    def learn(self, entries: list[Entry]) -> None:
        """Take in what the ledger has of its id; what was written for this very ask says when it came and what it said."""
        self.entries = entries
        own = next((entry for entry in entries if entry.source == self.flight.source), None)
        if own is not None:
            self.flight.timestamp_ms, self.flight.digest = own.attempt_ts, own.digest
            self.stamped = True

    def answer(self, window_ms: int) -> Answer | None:
        """Return what decided the ask; None where the ledger has nothing that surely did."""
        own = any(entry.source == self.flight.source for entry in self.entries)
        if not own and self.letter.reason == Reason.INVALID_ATTEMPT:
            return None  # a value that could not be read is decided by a record of its own only
        found = answer(self.entries, self.flight, window_ms)
        if self.stamped:
            return found
        # It came before it was buried, so one that is older than the window before that may have decided it.
        first = answer(self.entries, self.flight, sys.maxsize)
        return found if found is None or first is None or found.entry is first.entry else None

    @property
    def decisions(self) -> list[Entry]:
        """The decisions that bind the id, whichever ask they were made for."""
        return [entry for entry in self.entries if entry.scope is Scope.ID]


class Reply(NamedTuple):
    """What the worker tells an asker."""

    decision: Decision  # without the merged metadata
    message: Message


def reply_of(case: Case, found: Answer) -> Reply:
    """Return the reply by which an answer is told, byte for byte as the worker does."""
    flight = case.flight
    flight.answer = found
    document = answer_document(flight, found.entry.value or b"")
    return Reply(Decision.from_json(document), encode_reply(flight.ask, document, flight.user))


class Decided:
    """Opens dead letters of the attempts topic, and looks their decisions up. Both may raise KafkaUnavailable."""

    def __init__(self, settings: Settings, reader: TopicReader, partitions: Mapping[str, int]) -> None:
        self._settings = settings
        self._reader = reader
        self._partitions = partitions
        # What was read once is read again, whatever the limit is now.
        limitless = settings.model_copy(update={"max_event_bytes": sys.maxsize})
        self._attempts = AttemptReader(limitless, texts=load_texts(settings.messages))

    async def open(self, letters: Sequence[DeadLetter]) -> list[Case]:
        """Read dead letters of our attempts topic as the asks that they were, by what the topic still has of them."""
        topic = self._settings.attempts_topic
        wanted: dict[int, list[int]] = defaultdict(list)
        for letter in letters:
            if 0 <= letter.partition < self._partitions.get(topic, 0):
                wanted[letter.partition].append(letter.offset)
        originals = {
            (partition, offset): record
            for partition, offsets in wanted.items()
            for offset, record in (await self._reader.records_at(topic, partition, offsets)).items()
        }
        return [self._case(letter, originals.get((letter.partition, letter.offset))) for letter in letters]

    def _case(self, letter: DeadLetter, original: Record | None) -> Case:
        if original is not None and not letter.is_of(original):
            original = None
        whole = letter.truncated_bytes is None or original is not None
        value = letter.value if original is None else original.value
        timestamp = letter.at_ms if original is None else original.timestamp
        flight, _ = self._attempts.read(letter.attempt(timestamp=timestamp, value=value))
        return Case(letter=letter, flight=flight, stamped=original is not None, whole=whole)

    def has_ledger_of(self, letter: DeadLetter) -> bool:
        """Tell whether there is a ledger partition for a dead letter."""
        return 0 <= letter.partition < self._partitions.get(self._settings.decisions_topic, 0)

    async def look_up(self, cases: Iterable[Case]) -> None:
        """Read what the ledger has of these cases, each partition at most once and no further than need be."""
        by_partition: dict[int, list[Case]] = defaultdict(list)
        for case in cases:
            if self.has_ledger_of(case.letter):
                by_partition[case.letter.partition].append(case)
        for partition, together in by_partition.items():
            await self._look_up(partition, together)

    async def _look_up(self, partition: int, cases: Sequence[Case]) -> None:
        topic, window_ms = self._settings.decisions_topic, self._settings.window_ms
        start, end = await self._reader.bounds(topic, partition)
        open_cases: dict[str, list[Case]] = defaultdict(list)
        for case in cases:
            open_cases[case.flight.attempt_id].append(case)
        ids = frozenset(open_cases)

        def is_last(entries: list[Entry]) -> bool:
            """Tell whether all is answered by decisions that nothing further on can change."""
            attempt_id = entries[-1].attempt_id
            still = [case for case in open_cases.pop(attempt_id, ()) if not _is_bound(case, entries, window_ms)]
            if still:
                open_cases[attempt_id] = still
            return not open_cases

        since = start
        if all(case.stamped and case.letter.reason != Reason.INVALID_ATTEMPT for case in cases):
            oldest_ms = min(case.flight.timestamp_ms for case in cases)
            since = max(start, await self._reader.offset_at(topic, partition, oldest_ms - window_ms - 2 * CLOCK_ALLOWANCE_MS))
        late = await self._entries(partition, ids, since, end, is_last)
        early = await self._entries(partition, ids, start, since, lambda _: False) if open_cases else {}
        first_ms = await self._first_ms(partition, start, end)
        for case in cases:
            attempt_id = case.flight.attempt_id
            case.learn([*early.get(attempt_id, ()), *late.get(attempt_id, ())])
            since_ms = case.flight.timestamp_ms - window_ms - (0 if case.stamped else LOOK_BACK_MS)
            case.reached = start == 0 or (first_ms is not None and first_ms <= since_ms)

    async def _entries(
        self, partition: int, ids: frozenset[str], start: int, end: int, is_last: Callable[[list[Entry]], bool]
    ) -> dict[str, list[Entry]]:
        """Return the ledger records of some ids, until one is the last that is wanted."""
        found: dict[str, list[Entry]] = defaultdict(list)
        async for record in self._reader.scan(self._settings.decisions_topic, partition, start, end):
            headers = read_ledger(record.key, record.headers)
            if headers is not None and headers.attempt_id in ids:
                found[headers.attempt_id].append(Entry(record.offset, *headers, record.value))
                if is_last(found[headers.attempt_id]):
                    break
        return found

    async def _first_ms(self, partition: int, start: int, end: int) -> int | None:
        async for record in self._reader.scan(self._settings.decisions_topic, partition, start, end):
            return record.timestamp
        return None


def _is_bound(case: Case, entries: list[Entry], window_ms: int) -> bool:
    case.learn(entries)
    found = case.answer(window_ms)
    return found is not None and found.entry.scope is Scope.ID
