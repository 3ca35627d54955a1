"""The figures of a run: the row that `make faults` prints for it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import orjson

from gate.model.decision import SCOPES, Cause, Scope

from .checker import every_attempt_is_decided, runs_beyond
from .evidence import Evidence, Outcome
from .reading import Reading
from .wording import body_of, cause_of


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One row of the table that `make faults` ends with."""

    attempts: int  # records of the attempts topic
    answered: int  # of them, those with a decision and a reply, or a dead letter in its place
    lost: int  # without a decision, and committed or acknowledged and gone
    unknown: int  # asks without an answer in time
    duplicates: int  # reply records beyond the first of each attempt record
    decided_twice: int  # ids with more replied decisions than rule 1 gives
    run_again: int  # runs of actions beyond those that the attempts may have
    longest_wait_s: float  # from sending to the answer, as the asker saw it; else from record to record
    recovered_s: float  # from a crash, or from a mend, until the last attempt waiting then was answered; the longest


def figures(evidence: Evidence) -> Figures:
    """Return the figures of a run."""
    reading = Reading(evidence)
    done = [(case, case.done_ms) for case in reading.cases]
    known = {ask.correlation_id: ask for ask in evidence.asks if ask.outcome is Outcome.OK}
    waits_ms = [float(ask.ended_ms - ask.sent_ms) for ask in known.values()]
    waits_ms += [
        done_ms - case.record.timestamp
        for case, done_ms in done
        if done_ms is not None and case.flight.ask.correlation_id not in known
    ]
    recoveries_ms = [
        done_ms - at_ms
        for at_ms in (*(crash.at_ms for crash in evidence.crashes), *evidence.mended)
        for case, done_ms in done
        if done_ms is not None and case.record.timestamp <= at_ms < done_ms
    ]
    sent = sum(len(replies) for waiter, replies in reading.replies.items() if waiter in reading.by_waiter)
    return Figures(
        attempts=len(reading.cases),
        answered=sum(done_ms is not None for _, done_ms in done),
        lost=sum(1 for _ in every_attempt_is_decided(reading)),
        unknown=sum(ask.outcome is Outcome.UNKNOWN for ask in evidence.asks),
        duplicates=sent - sum(case.reply is not None for case in reading.cases),
        decided_twice=_decided_twice(reading),
        run_again=runs_beyond(reading).total(),
        longest_wait_s=max(waits_ms, default=0.0) / 1000,
        recovered_s=max(recoveries_ms, default=0.0) / 1000,
    )


def _decided_twice(reading: Reading) -> int:
    """Count the ids with more decisions in their replies than rule 1 gives; what binds one ask alone is none of an id's."""
    replied: dict[str, set[bytes]] = defaultdict(set)
    given: dict[str, set[bytes]] = defaultdict(set)
    for waiter, cases in reading.by_waiter.items():
        attempt_id = cases[0].attempt_id
        replied[attempt_id] |= {what for reply in reading.replies.get(waiter, ()) if (what := _decision_in(reply.value))}
        given[attempt_id] |= {what for case in cases if case.expected and (what := _decision_in(case.expected.value))}
    return sum(len(replied[attempt_id]) > max(1, len(given[attempt_id])) for attempt_id in replied)


def _decision_in(value: bytes | None) -> bytes | None:
    """Return the decision on an id that a reply carries, without what is the ask's own; None where it binds one ask alone."""
    body = body_of(value)
    if not body or cause_of(body) is Cause.CONFLICT or SCOPES.get(cause_of(body)) is Scope.ASK:
        return None
    return orjson.dumps({name: part for name, part in body.items() if name not in {"user_metadata", "app_metadata"}})
