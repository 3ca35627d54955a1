"""Whether the promises held in a run: the invariants of KAFKA.md section 7, found or not in what the run left behind.

Pure. Each invariant is one function, its docstring what it means here. A fault is reported once, by the invariant that says
most about it: an ask that nobody will decide any more is I1's and no one else's, a reply with other content is I3's and still
counts as the reply of its ask. `STRAY` is what no numbered invariant says: what must not exist at all.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from itertools import pairwise
from typing import Final

from gate.ledger.digest import conflicts
from gate.model.decision import SCOPES, ActionOutcome, Cause, Scope

from .evidence import Asked, Commit, Evidence, Outcome, Written
from .reading import INSTEAD, Case, Decided, Reading, addressed, fits, source_of, waiter_of
from .wording import body_of, cause_of, name_of, shown, what_is_undone, what_is_wrong

_RAN: Final = frozenset(outcome.value for outcome in ActionOutcome) - {ActionOutcome.NOT_MATCHED, ActionOutcome.NOT_REACHED}


class Invariant(StrEnum):
    """What may be violated; the words are those of reports."""

    I1 = "I1 every attempt is decided"
    I2 = "I2 every decision is one on an attempt"
    I3 = "I3 every reply carries the decision"
    I4 = "I4 every asker is told once"
    I5 = "I5 nothing is committed before it is done"
    I6 = "I6 commits never go back"
    I7 = "I7 in flight is bounded"
    I8 = "I8 nothing is left over"
    I9 = "I9 no decision is late"
    I10 = "I10 actions run again only after a crash"
    STRAY = "nothing is there that must not be"


@dataclass(frozen=True, kw_only=True)
class Violation:
    """One thing that is not as it must be."""

    invariant: Invariant
    where: str  # an attempt id with its place, or a partition and offset
    what: str  # a sentence: what was expected and what is there

    def __str__(self) -> str:
        return f"{self.invariant.name} {self.where}: {self.what}"


Finding = Iterator[tuple[object, str]]
"""Where, and what, of the violations of one invariant."""


def check(evidence: Evidence) -> list[Violation]:
    """Return every violation in the evidence of a run in mode `strict`, after quiescence."""
    if evidence.settings.mode != "strict":
        raise ValueError("at_least_once gives up what is checked here (promises 1 and 3); run with GATE_MODE=strict")
    reading = Reading(evidence)
    return [
        Violation(invariant=invariant, where=str(where), what=what)
        for invariant, find in _INVARIANTS.items()
        for where, what in find(reading)
    ]


# -- The invariants -----------------------------------------------------------------------------------------------------


def every_attempt_is_decided(reading: Reading) -> Finding:
    """I1: an attempt that the broker acknowledged is in its topic, and has a decision by rule 1, or is still uncommitted.

    An `expired` of its own is a decision, and so is the one that it conflicts with. What is not acknowledged may be there or
    not; where it is there, this holds for it, too. (KAFKA.md section 7, I1; DESIGN.md section 1, promise 1.)
    """
    present = {case.record.place: case for case in reading.cases}
    for ask in reading.evidence.asks:
        if ask.written is None:
            continue
        case = present.get(ask.written)
        if case is None:
            yield f"{ask.attempt_id} ({ask.written})", "was acknowledged there, and the attempts topic has no such record"
        elif case.flight.ask.correlation_id != ask.correlation_id:
            yield f"{ask.attempt_id} ({ask.written})", f"was acknowledged there, where {case} stands"
    for case in reading.cases:
        if reading.lost(case):
            committed = reading.evidence.committed(case.record.partition)
            yield case, f"expected a decision in the ledger, as {committed} is committed; no record of it answers by rule 1"


def every_decision_is_one_on_an_attempt(reading: Reading) -> Finding:
    """I2: each ledger record, losing ones included, was written for an attempt that is in the attempts topic.

    It says of it what is true: partition, id, timestamp and digest, and the scope that its cause has; its body agrees with its
    headers. A conflict is never written. (KAFKA.md section 7, I2; protocol rule 1; DESIGN.md section 2, ledger record.)
    """
    for stranger in reading.strangers:
        yield stranger.place, "expected a ledger record; its headers are none"
    for candidates in reading.ledger.values():
        for decided in candidates:
            yield from ((decided.record.place, what) for what in _untruths(reading, decided))


def _untruths(reading: Reading, decided: Decided) -> Iterator[str]:
    entry = decided.entry
    case = reading.by_source.get(entry.source)
    if case is None:
        yield f"decides {entry.attempt_id} of {entry.source}; the attempts topic has no such record"
        return
    flight = case.flight
    for name, there, expected in (
        ("partition", decided.record.partition, case.record.partition),
        ("id", entry.attempt_id, flight.attempt_id),
        ("attempt-ts", entry.attempt_ts, flight.timestamp_ms),
    ):
        if there != expected:
            yield f"its {name} is {there!r}; the attempt {entry.source} has {expected!r}"
    if conflicts(entry.digest, flight.digest):
        yield f"its digest is {entry.digest!r}; the attempt {entry.source} has {flight.digest!r}"
    body = body_of(entry.value)
    for name, expected in (("attempt_id", entry.attempt_id), ("source", entry.source)):
        if body.get(name) != expected:
            yield f"its body's {name} is {body.get(name)!r}; its headers say {expected!r}"
    cause = cause_of(body)
    if cause is Cause.CONFLICT:
        yield "is a conflict, which is derived for each ask and never written"
    elif SCOPES.get(cause) is not entry.scope:
        yield f"has scope {entry.scope.value}; a record of cause {cause and cause.value} has {SCOPES[cause].value}"


def every_reply_carries_the_decision(reading: Reading) -> Finding:
    """I3: every reply to an ask is, byte for byte, what rule 1 over the whole ledger gives for that ask.

    Key, headers and body, merged metadata included; for an ask with other content the conflict derived from the decision. So
    all replies of an id carry one decision, losing ledger records are never replied, and a reply is never older than the record
    it carries. (KAFKA.md section 7, I3; protocol rules 1 and 2; DESIGN.md section 1, promises 1 and 3.)
    """
    for waiter, cases in reading.by_waiter.items():
        lost = any(reading.lost(case) for case in cases)  # I1 says so
        for reply in reading.replies.get(waiter, ()):
            if not addressed(reply, cases):
                continue  # STRAY says so
            right = [case for case in cases if fits(reply, case)]
            if not right and not lost:
                yield cases[0], f"the reply {reply.place} {what_is_wrong(reading, cases[0], reply)}"
            elif right and not any(_not_older(reading, reply, case) for case in right):
                yield right[0], f"the reply {reply.place} is older than the decision that it carries"


def _not_older(reading: Reading, reply: Written, case: Case) -> bool:
    assert case.decision is not None
    return reply.timestamp >= case.decision.record.timestamp - reading.evidence.clocks_apart_ms


def every_asker_is_told_once(reading: Reading) -> Finding:
    """I4: a waiter completes at most once, with the first reply record of its correlation id; exactly once where its ask is ok.

    First is lowest in its partition. An ask without an answer in time may have one that came as its asker stopped waiting, within
    the slack. An ask that is said to have failed stands nowhere in the attempts topic.
    (KAFKA.md section 7, I4, and section 5, client rule 4.)
    """
    replies: dict[bytes | None, list[Written]] = defaultdict(list)
    for reply in reading.evidence.replies:
        replies[waiter_of(reply)[1]].append(reply)
    taken = {at: case for case in reading.cases if (at := case.flight.ask.correlation_id) is not None}
    for ask in reading.evidence.asks:
        if ask.outcome is Outcome.FAILED and ask.correlation_id in taken:
            yield name_of(ask), f"is said to have failed; it stands at {taken[ask.correlation_id].record.place}"
        expected = 1 if ask.outcome is Outcome.OK or _at_the_end(reading, ask, replies[ask.correlation_id]) else 0
        if len(ask.completions) != expected:
            yield name_of(ask), f"is {ask.outcome.value}; its waiter completed {len(ask.completions)} times, expected {expected}"
        if not ask.completions:
            continue
        mine = [reply.place for reply in replies[ask.correlation_id]]
        given = ask.completions[0]
        before = [place for place in mine if (place.topic, place.partition) == (given.topic, given.partition)]
        if given not in mine:
            yield name_of(ask), f"its waiter completed with {given}, which is no reply to it"
        elif given != (first := min(before, key=lambda place: place.offset)):
            yield name_of(ask), f"its waiter completed with {given}; expected the first one, {first}"


def _at_the_end(reading: Reading, ask: Asked, replies: Iterable[Written]) -> bool:
    """Tell whether an ask that is unknown was completed as it ended: the reply and the end of patience came together."""
    if ask.outcome is not Outcome.UNKNOWN or not ask.completions:
        return False
    told = next((reply for reply in replies if reply.place == ask.completions[0]), None)
    return told is not None and told.timestamp >= ask.ended_ms - reading.evidence.slack_ms


def nothing_is_committed_before_it_is_done(reading: Reading) -> Finding:
    """I5: whenever the committed offset was looked at, each attempt below it had its decision, and its reply or dead letter.

    Done is the append of the decision, and of the first reply that can be its own (of its dead letter, too, or instead, where
    it needs one); only what is in the log can be seen, not its acknowledgement. Each attempt is named once, with the first
    commit that passed it. An attempt without any decision is I1's. Nothing beyond the end of a partition is committed.
    (KAFKA.md section 7, I5; protocol rules 16 and 17; DESIGN.md section 1, promise 2.)
    """
    cases: dict[int, list[Case]] = defaultdict(list)
    for case in reading.cases:
        cases[case.record.partition].append(case)
    for partition, first in _first_commits(reading.evidence.commits).items():
        offsets = [commit.offset or 0 for commit in first]
        end = reading.evidence.ends.get(partition, 0)
        if offsets and offsets[-1] > end:
            yield f"partition {partition}", f"{offsets[-1]} was committed; the partition ends at {end}"
        for case in cases[partition]:
            passed = bisect_right(offsets, case.record.offset)
            if passed == len(first) or reading.lost(case):
                continue
            commit, done_ms = first[passed], case.done_ms
            if done_ms is None:
                yield case, f"{commit.offset} was committed; {what_is_undone(case)}"
            elif done_ms > commit.seen_ms + reading.evidence.clocks_apart_ms:
                yield case, f"{commit.offset} was committed at {commit.seen_ms}; it was done {done_ms - commit.seen_ms} ms later"


def _first_commits(commits: tuple[Commit, ...]) -> dict[int, list[Commit]]:
    """Return by partition the commits that went further than all before."""
    found: dict[int, list[Commit]] = defaultdict(list)
    for commit in commits:
        known = found[commit.partition]
        if commit.offset is not None and (not known or commit.offset > (known[-1].offset or 0)):
            known.append(commit)
    return found


def commits_never_go_back(reading: Reading) -> Finding:
    """I6: what is committed in a partition only grows, but across a rebalance.

    A rebalance is a change of the members, a group that is not stable, or one that the run knows of, between the two looks or
    within a session timeout before the second: so long a commit of the old generation may be under way.
    (KAFKA.md section 7, I6, and section 4, 11; protocol rule 18.)
    """
    evidence = reading.evidence
    by_partition: dict[int, list[Commit]] = defaultdict(list)
    for commit in evidence.commits:
        by_partition[commit.partition].append(commit)
    for partition, commits in by_partition.items():
        rebalanced_ms = -evidence.settings.session_timeout_ms - 1
        known = sorted(evidence.rebalances)
        for before, after in pairwise(commits):
            if before.members != after.members or not (before.stable and after.stable):
                rebalanced_ms = after.seen_ms
            recent = after.seen_ms - evidence.settings.session_timeout_ms
            calm = rebalanced_ms < recent and not any(min(recent, before.seen_ms) <= at <= after.seen_ms for at in known)
            if calm and (after.offset or 0) < (before.offset or 0):
                yield (
                    f"partition {partition}",
                    f"{before.offset} was committed at {before.seen_ms} and {after.offset} at {after.seen_ms}, with no rebalance",
                )


def in_flight_is_bounded(reading: Reading) -> Finding:
    """I7: no worker ever has more attempts in flight than `max_in_flight`, as far as its gauge was looked at.

    (KAFKA.md section 7, I7; DESIGN.md section 5, concurrency.)
    """
    limit = reading.evidence.settings.max_in_flight
    for look in reading.evidence.in_flight:
        if look.attempts > limit:
            yield f"worker {look.worker}", f"{look.attempts} attempts were in flight at {look.at_ms}; expected at most {limit}"


def nothing_is_left_over(reading: Reading) -> Finding:
    """I8: after quiescence the last committed offset of every partition is its end. (KAFKA.md section 7, I8.)"""
    for partition, end in sorted(reading.evidence.ends.items()):
        committed = reading.evidence.committed(partition)
        if committed < end:
            yield f"partition {partition}", f"{committed} is committed; expected its end, {end}: {end - committed} are left over"


def no_decision_is_late(reading: Reading) -> Finding:
    """I9: what a chain decided (scope `id`) was decided by its attempt's deadline, give or take the slack.

    The time is the decision's own `decided_at`, which is broker time: the append may come later, when the ledger was away, and
    replies to later asks send it again. Late asks are denied `expired`, and what cannot be read `invalid_attempt`, whenever they
    are taken: those are no decisions of a chain. Losing records decide nothing. (KAFKA.md section 7, I9; DESIGN.md section 5.)
    """
    for decided, case in reading.standing():
        if decided.entry.scope is not Scope.ID:
            continue
        body = body_of(decided.entry.value)
        try:
            at_ms = datetime.fromisoformat(body["decided_at"]).timestamp() * 1000
        except (KeyError, TypeError, ValueError):
            continue
        late_ms = at_ms - case.flight.ask.deadline_ms
        if late_ms > reading.evidence.slack_ms:
            cause = cause_of(body)
            yield (
                case,
                f"{decided.record.place} was decided {late_ms:.0f} ms after the deadline; expected `expired`, "
                f"there is {cause.value if cause else 'an approval'}",
            )


def actions_run_again_only_after_a_crash(reading: Reading) -> Finding:
    """I10: runs of an action, less those that every attempt may have, are at most crashes times `max_in_flight`.

    An attempt may have one run, and as many as the decisions that stand on its id say in their traces (an ask after an `expired`
    one, or after the window, is decided anew; `retries` are counted there). No action runs for an id that nobody asked for.
    (KAFKA.md section 7, I10; DESIGN.md section 5, not for the ledger.)
    """
    evidence = reading.evidence
    for effect in evidence.side_effects:
        if effect.attempt_id not in reading.by_id:
            yield effect.attempt_id, f"{effect.action} ran for it at {effect.at_ms}; the attempts topic has no such id"
    again = runs_beyond(reading)
    bound = len(evidence.crashes) * evidence.settings.max_in_flight
    if again.total() > bound:
        worst = ", ".join(f"{attempt_id} ({count})" for (attempt_id, _), count in again.most_common(3))
        yield worst, f"actions ran again {again.total()} times; expected at most {bound}, for {len(evidence.crashes)} crashes"


def runs_beyond(reading: Reading) -> Counter[tuple[str, str]]:
    """Return by attempt id and action how often it ran beyond what the attempt may have."""
    runs = Counter(
        (effect.attempt_id, effect.action) for effect in reading.evidence.side_effects if effect.attempt_id in reading.by_id
    )
    traced: Counter[tuple[str, str]] = Counter()
    for decided, _ in reading.standing():
        for entry in body_of(decided.entry.value).get("trace", ()):
            if entry.get("outcome") in _RAN:
                traced[decided.entry.attempt_id, entry.get("name")] += entry.get("tries", 1)
    return Counter({key: more for key, count in runs.items() if (more := count - max(1, traced[key])) > 0})


def nothing_is_there_that_must_not_be(reading: Reading) -> Finding:
    """STRAY: replies are to asks that were made, where their askers may be told; dead letters are of attempts that need one.

    (DESIGN.md section 2, what cannot be served as asked, and section 1, promise 5.)
    """
    for waiter, replies in reading.replies.items():
        cases = reading.by_waiter.get(waiter)
        for reply in replies:
            if cases is None:
                yield reply.place, f"is a reply for {shown(waiter[2])}, correlation {shown(waiter[1])}; nobody asked so"
            elif not addressed(reply, cases):
                places = sorted({f"{at.topic}-{at.partition}" if at.topic else "nowhere" for at in cases[0].addresses})
                yield cases[0], f"has a reply at {reply.place}; expected {' or '.join(places)}"
    for letter in reading.lone_letters:
        yield letter.place, f"is the dead letter of {source_of(letter)}, which is no attempt"
    for case in reading.cases:
        for letter in case.letters:
            yield from ((case, f"its dead letter {letter.place} {what}") for what in _not_its_letter(case, letter))


def _not_its_letter(case: Case, letter: Written) -> Iterator[str]:
    reason = shown(letter.header("gate-dlq-reason"))
    if reason not in INSTEAD and reason not in case.reasons:
        expected = ", ".join(sorted("none" if wanted is None else str(wanted) for wanted in case.reasons))
        yield f"is for {reason}; expected {expected}"
    kept = tuple(header for header in letter.headers if not header[0].startswith("gate-dlq-"))
    same_value = letter.value == case.record.value or letter.header("gate-dlq-truncated") is not None
    asked = tuple(header for header in case.record.headers if not header[0].startswith("gate-dlq-"))
    if (letter.key, kept) != (case.record.key, asked) or not same_value:
        yield "has another key, value or header than the attempt"


_INVARIANTS: Final[Mapping[Invariant, Callable[[Reading], Finding]]] = {
    Invariant.I1: every_attempt_is_decided,
    Invariant.I2: every_decision_is_one_on_an_attempt,
    Invariant.I3: every_reply_carries_the_decision,
    Invariant.I4: every_asker_is_told_once,
    Invariant.I5: nothing_is_committed_before_it_is_done,
    Invariant.I6: commits_never_go_back,
    Invariant.I7: in_flight_is_bounded,
    Invariant.I8: nothing_is_left_over,
    Invariant.I9: no_decision_is_late,
    Invariant.I10: actions_run_again_only_after_a_crash,
    Invariant.STRAY: nothing_is_there_that_must_not_be,
}
