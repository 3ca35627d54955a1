"""The checker finds nothing where the rules were kept, and each violation, named as what it is, where one was planted."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gate.model.wire import INT64

from .checker import Invariant, check
from .evidence import Asked, Bytes, Commit, Evidence, InFlight, Outcome, Place, SideEffect, Written, dump, load
from .figures import Figures, figures
from .model import Fate, Step, To, play
from .reading import Reading

SCENARIO = (
    Step(id="anna"),
    Step(id="anna", after_ms=50),  # asked again: the same decision
    Step(id="anna", says="y", after_ms=50),  # a conflict
    Step(id="bert", fate=Fate.LATE),  # expired
    Step(id="bert", after_ms=350),  # and asked again: decided anew
    Step(id="cleo", fate=Fate.ZOMBIE),  # decisions-*-n, and a record behind it that loses
    Step(id="cleo", after_ms=50),
    Step(id="dora", fate=Fate.KILLED_RUNNING),
    Step(id="emil", fate=Fate.KILLED_APPENDED),
    Step(id="fred", fate=Fate.KILLED_REPLIED),
    Step(id="gina", fate=Fate.SENT_TWICE),
    Step(id="hugo", says="{"),
    Step(id="ines", says="!"),
    Step(id="jack", to=To.FORBIDDEN),
    Step(id="kate", to=To.OUT_OF_RANGE),
    Step(id="lars", to=To.OWN),
    Step(id="mona", fate=Fate.IMPATIENT),
    Step(id="nils", fate=Fate.LOST),
    Step(id="olga", fate=Fate.REFUSED),
    Step(id="paul", fate=Fate.REJECTED),
    Step(id="rosa", takes_ms=60),
    Step(id="rosa", after_ms=5),  # waits for the first one
    Step(id="sven", fate=Fate.DENIED),
    Step(id="tina", to=To.MISSING),
    Step(id="anna", after_ms=1500),  # after the window: decided anew
    Step(id="ugur", correlated=False),
)
CLEAN = play(SCENARIO)

SCENARIOS = st.lists(
    st.builds(
        Step,
        id=st.sampled_from("abc"),
        says=st.sampled_from("xxxxxxy{!"),
        after_ms=st.sampled_from((0, 1, 10, 100, 400, 1200)),
        takes_ms=st.sampled_from((0, 5, 40, 250, 400)),
        fate=st.sampled_from(Fate),
        to=st.sampled_from((To.DEFAULT, To.DEFAULT, To.DEFAULT, *To)),
        correlated=st.sampled_from((True, True, True, False)),
    ),
    max_size=12,
)


def said(evidence: Evidence) -> list[str]:
    return [str(violation) for violation in check(evidence)]


# -- Nothing is found where the rules were kept -------------------------------------------------------------------------


def test_nothing_is_found_in_a_run_that_has_everything() -> None:
    assert [] == said(CLEAN)


@given(SCENARIOS)
def test_nothing_is_found_in_any_run_that_kept_the_rules(steps: list[Step]) -> None:
    assert [] == said(play(steps))


def test_figures_of_a_run() -> None:
    assert Figures(
        attempts=25,
        answered=25,
        lost=0,
        unknown=7,  # where the reply is not where this client reads, too
        duplicates=1,
        decided_twice=0,
        run_again=2,
        longest_wait_s=0.296,
        recovered_s=0.011,
    ) == figures(CLEAN)


def test_evidence_in_a_file_is_the_same_evidence(tmp_path: Path) -> None:
    odd = CLEAN.attempts[0]
    odd = replace(odd, key=b"\xff\0", headers=(*odd.headers, ("x", b"\xfe"), ("y", None), ("z", b"")))
    evidence = CLEAN.but(attempts=(odd, *CLEAN.attempts[1:]))

    dump(evidence, tmp_path / "evidence.json")

    assert evidence == load(tmp_path / "evidence.json")


def test_credentials_do_not_get_into_the_file(tmp_path: Path) -> None:
    settings = CLEAN.settings.model_validate({"security_protocol": "SASL_SSL", "sasl_username": "u", "sasl_password": "hunter2"})

    dump(CLEAN.but(settings=settings), tmp_path / "evidence.json")

    assert "sasl" not in (tmp_path / "evidence.json").read_text()


def test_a_run_that_gave_up_the_promises_is_not_checked_for_them() -> None:
    with pytest.raises(ValueError, match="GATE_MODE=strict"):
        check(CLEAN.but(settings=CLEAN.settings.model_copy(update={"mode": "at_least_once"})))


# -- Planting -----------------------------------------------------------------------------------------------------------

Plant = Callable[[Evidence], Evidence]


def of(records: Iterable[Written], attempt_id: str) -> list[Written]:
    """Return the records that are about an id: its attempts, ledger records, replies or dead letters."""
    return [
        record
        for record in records
        if record.header("gate-attempt-id") == attempt_id.encode() or record.key == attempt_id.encode()
    ]


def put(records: tuple[Written, ...], record: Written, **changes: Any) -> tuple[Written, ...]:
    """Return the records with one of them changed."""
    assert record in records
    return tuple(replace(other, **changes) if other is record else other for other in records)


def behind(records: tuple[Written, ...], record: Written, **changes: Any) -> tuple[Written, ...]:
    """Return the records with a changed copy of one of them at the end of its partition."""
    same = [other.offset for other in records if (other.topic, other.partition) == (record.topic, record.partition)]
    return (*records, replace(record, **{"offset": max(same, default=-1) + 1, **changes}))


def headers(record: Written, **changes: bytes) -> tuple[tuple[str, Bytes | None], ...]:
    named = {name.replace("__", "-"): value for name, value in changes.items()}
    return tuple((name, named.get(name, value)) for name, value in record.headers)


def body(record: Written, **changes: Any) -> bytes:
    """Return the body of a record with some of its members changed."""
    return orjson.dumps({**orjson.loads(record.value or b""), **changes})


def asked(evidence: Evidence, attempt_id: str, **changes: Any) -> Evidence:
    """Return the evidence with the first ask of an id changed."""
    first = next(ask for ask in evidence.asks if ask.attempt_id == attempt_id)
    return evidence.but(asks=tuple(replace(ask, **changes) if ask is first else ask for ask in evidence.asks))


def ask_of(evidence: Evidence, attempt_id: str) -> Asked:
    return next(ask for ask in evidence.asks if ask.attempt_id == attempt_id)


def without(records: tuple[Written, ...], *gone: Written) -> tuple[Written, ...]:
    assert gone
    return tuple(record for record in records if record not in gone)


def changed(**fields: Callable[[Evidence], Any]) -> Plant:
    return lambda evidence: evidence.but(**{name: change(evidence) for name, change in fields.items()})


def decision(e: Evidence, attempt_id: str, number: int = 0) -> Written:
    return of(e.decisions, attempt_id)[number]


def reply(e: Evidence, attempt_id: str, number: int = 0) -> Written:
    return of(e.replies, attempt_id)[number]


# -- One violation each -------------------------------------------------------------------------------------------------


def swapped(e: Evidence) -> tuple[Written, ...]:
    one, other = reply(e, "sven"), reply(e, "mona")
    return put(put(e.replies, one, value=other.value), next(r for r in e.replies if r is other), value=one.value)


def of_the_loser(e: Evidence) -> tuple[Written, ...]:
    """A reply to cleo that carries the record of the zombie."""
    case = Reading(e).by_id["cleo"][1]
    losing = orjson.loads(decision(e, "cleo", 1).value or b"")
    kept = {name: losing[name] for name in losing if name not in {"source", "worker", "trace"}}
    there = reply(e, "cleo", 1)
    corrected = (
        ("kafka_correlationId", case.flight.ask.correlation_id),
        ("gate-attempt-id", b"cleo"),
        ("gate-status", b"denied"),
        ("gate-cause", b"access_denied"),
        ("content-type", b"application/json"),
    )
    return put(e.replies, there, value=orjson.dumps(kept), headers=corrected)


def decided_late(e: Evidence) -> Evidence:
    """Sven's decision as it would be if it had been made 400 ms later: the ledger and the reply agree."""
    there = orjson.loads(decision(e, "sven").value or b"")["decided_at"].encode()
    second, milli = there[:-5], int(there[-4:-1])
    later = second[:-2] + b"%02d.%03dZ" % (int(second[-2:]) + (milli + 400) // 1000, (milli + 400) % 1000)
    ledger, told = decision(e, "sven"), reply(e, "sven")
    return e.but(
        decisions=put(e.decisions, ledger, value=(ledger.value or b"").replace(there, later)),
        replies=put(e.replies, told, value=(told.value or b"").replace(there, later)),
    )


def commits_from(e: Evidence, attempt: Written, at_ms: int) -> tuple[Commit, ...]:
    """All commits, those seen from a moment on beyond an attempt."""
    return tuple(
        replace(commit, offset=max(commit.offset or 0, attempt.offset + 1))
        if commit.partition == attempt.partition and commit.seen_ms >= at_ms
        else commit
        for commit in e.commits
    )


def at_most(e: Evidence, partition: int, offset: int) -> tuple[Commit, ...]:
    return tuple(
        replace(commit, offset=min(commit.offset or 0, offset)) if commit.partition == partition else commit
        for commit in e.commits
    )


def later(e: Evidence, back_by: int, **changes: Any) -> tuple[Commit, ...]:
    """All commits, and long after all rebalances one that is so much lower, and the last one again."""
    last = e.commits[-1]
    back = replace(last, **{"seen_ms": last.seen_ms + 60_000, "offset": (last.offset or 0) - back_by, **changes})
    return (*e.commits, replace(last, seen_ms=last.seen_ms + 50_000), back, replace(last, seen_ms=last.seen_ms + 60_010))


def undecided(e: Evidence) -> Evidence:
    """The evidence with one more attempt, that was replied to and neither decided nor committed."""
    attempt, told = of(e.attempts, "mona")[0], reply(e, "mona")
    offset = e.ends[attempt.partition]
    named = {"kafka_correlationId": b"c-new", "gate__attempt__id": b"nora"}
    return e.but(
        attempts=(*e.attempts, replace(attempt, offset=offset, key=b"nora", headers=headers(attempt, **named))),
        replies=behind(e.replies, told, key=b"nora", headers=headers(told, **named)),
    )


PLANTED: dict[str, tuple[Invariant, str, Plant]] = {
    "a decision that is gone": (
        Invariant.I1,
        "sven (attempts-",
        changed(decisions=lambda e: without(e.decisions, decision(e, "sven"))),
    ),
    "an acknowledged attempt that is gone": (
        Invariant.I1,
        "nils (attempts-0-99): was acknowledged there, and the attempts topic has no such record",
        lambda e: asked(e, "nils", written=Place(topic="attempts", partition=0, offset=99)),
    ),
    "an acknowledged attempt with another one in its place": (
        Invariant.I1,
        "was acknowledged there, where sven",
        lambda e: asked(e, "nils", written=ask_of(e, "sven").written),
    ),
    "a decision on nobody's attempt": (
        Invariant.I2,
        "decides zoe of attempts-0-999; the attempts topic has no such record",
        changed(
            decisions=lambda e: behind(
                e.decisions,
                decision(e, "sven"),
                key=b"zoe",
                value=body(decision(e, "sven"), attempt_id="zoe", source="attempts-0-999"),
                headers=headers(decision(e, "sven"), source=b"attempts-0-999"),
            )
        ),
    ),
    "a decision that says another time of its attempt": (
        Invariant.I2,
        "its attempt-ts is 1767323045001",
        changed(
            decisions=lambda e: behind(
                e.decisions,
                decision(e, "sven"),
                headers=headers(decision(e, "sven"), attempt__ts=INT64.pack(1_767_323_045_001)),
            )
        ),
    ),
    "a decision in another partition than its attempt": (
        Invariant.I2,
        "its partition is",
        changed(
            decisions=lambda e: (
                *e.decisions,
                replace(decision(e, "sven"), partition=1 - decision(e, "sven").partition, offset=99),
            )
        ),
    ),
    "a losing decision on other content": (
        Invariant.I2,
        "its digest is",
        changed(
            decisions=lambda e: behind(
                e.decisions,
                decision(e, "sven"),
                headers=headers(decision(e, "sven"), digest=(decision(e, "sven").header("digest") or b"")[:-4] + b"beef"),
            )
        ),
    ),
    "a conflict in the ledger": (
        Invariant.I2,
        "is a conflict, which is derived",
        changed(
            decisions=lambda e: behind(
                e.decisions, decision(e, "sven"), value=body(decision(e, "sven"), denial={"cause": "conflict"})
            )
        ),
    ),
    "a decision of the wrong scope": (
        Invariant.I2,
        "has scope ask; a record of cause access_denied has id",
        changed(decisions=lambda e: behind(e.decisions, decision(e, "sven"), headers=headers(decision(e, "sven"), scope=b"ask"))),
    ),
    "a record in the ledger that is none": (
        Invariant.I2,
        "expected a ledger record",
        changed(decisions=lambda e: behind(e.decisions, decision(e, "sven"), headers=())),
    ),
    "two replies swapped": (Invariant.I3, "says attempt_id mona; expected sven", changed(replies=swapped)),
    "a reply of a losing record": (Invariant.I3, "which lost to decisions-", changed(replies=of_the_loser)),
    "a winner that is gone": (
        Invariant.I3,
        "cleo (attempts-",
        changed(decisions=lambda e: without(e.decisions, decision(e, "cleo"))),
    ),
    "a reply with other metadata": (
        Invariant.I3,
        "says user_metadata {}; expected {'mine': 'x', 'plan': 'free'}",
        changed(replies=lambda e: put(e.replies, reply(e, "mona"), value=body(reply(e, "mona"), user_metadata={}))),
    ),
    "a second reply that differs": (
        Invariant.I3,
        "says decided_at never; expected 2026",
        changed(replies=lambda e: behind(e.replies, reply(e, "sven"), value=body(reply(e, "sven"), decided_at="never"))),
    ),
    "a conflict that was told the decision": (
        Invariant.I3,
        "has the header gate-status approved; expected denied",
        changed(
            replies=lambda e: put(
                e.replies,
                reply(e, "anna", 2),
                value=reply(e, "anna").value,
                headers=(("kafka_correlationId", b"c-2"), *reply(e, "anna").headers[1:]),
            )
        ),
    ),
    "a reply in other words of the same meaning": (
        Invariant.I3,
        "has the bytes",
        changed(
            replies=lambda e: put(e.replies, reply(e, "sven"), value=(reply(e, "sven").value or b"").replace(b":", b": ", 1))
        ),
    ),
    "a reply with another key": (
        Invariant.I3,
        "has the key eve; expected sven",
        changed(replies=lambda e: put(e.replies, reply(e, "sven"), key=b"eve")),
    ),
    "a reply with a header more": (
        Invariant.I3,
        "has the header __TypeId__",
        changed(
            replies=lambda e: put(e.replies, reply(e, "sven"), headers=(*reply(e, "sven").headers, ("__TypeId__", b"java.Map")))
        ),
    ),
    "a reply before its decision": (
        Invariant.I3,
        "is older than the decision that it carries",
        changed(replies=lambda e: put(e.replies, reply(e, "sven"), timestamp=decision(e, "sven").timestamp - 1)),
    ),
    "a reply to an attempt that nobody has decided yet": (
        Invariant.I3,
        "says approved; the ledger has no decision on it",
        undecided,
    ),
    "a waiter that completes twice": (
        Invariant.I4,
        "its waiter completed 2 times, expected 1",
        lambda e: asked(e, "fred", completions=tuple(told.place for told in of(e.replies, "fred"))),
    ),
    "a waiter that completes with the second reply": (
        Invariant.I4,
        "expected the first one, replies-",
        lambda e: asked(e, "fred", completions=(reply(e, "fred", 1).place,)),
    ),
    "a waiter that completes with another's reply": (
        Invariant.I4,
        "which is no reply to it",
        lambda e: asked(e, "fred", completions=(reply(e, "sven").place,)),
    ),
    "an ask that is ok without a reply": (
        Invariant.I4,
        "is ok; its waiter completed 0 times",
        lambda e: asked(e, "fred", completions=()),
    ),
    "an ask that is unknown although it was told": (
        Invariant.I4,
        "is unknown; its waiter completed 1 times",
        lambda e: asked(e, "fred", outcome=Outcome.UNKNOWN, ended_ms=ask_of(e, "fred").ended_ms + e.slack_ms + 1),
    ),
    "an ask that is said to have failed": (
        Invariant.I4,
        "mona (correlation c-16): is said to have failed; it stands at attempts-",
        lambda e: asked(e, "mona", outcome=Outcome.FAILED),
    ),
    "a commit before the decision": (
        Invariant.I5,
        "it was done",
        changed(commits=lambda e: commits_from(e, of(e.attempts, "sven")[0], of(e.attempts, "sven")[0].timestamp)),
    ),
    "a commit between decision and reply": (
        Invariant.I5,
        "it was done 1 ms later",
        changed(commits=lambda e: commits_from(e, of(e.attempts, "sven")[0], decision(e, "sven").timestamp)),
    ),
    "a reply that was never sent": (
        Invariant.I5,
        "has no reply and no dead letter in its place",
        changed(replies=lambda e: without(e.replies, reply(e, "mona"))),
    ),
    "one reply to an attempt that stands there twice": (
        Invariant.I5,
        "gina (attempts-",
        changed(replies=lambda e: without(e.replies, reply(e, "gina", 1))),
    ),
    "a dead letter that was never written": (
        Invariant.I5,
        "it has no dead letter, and needs one for reply_topic_not_allowed",
        changed(dead_letters=lambda e: without(e.dead_letters, *of(e.dead_letters, "jack"))),
    ),
    "a dead letter in a reply's place that was never written": (
        Invariant.I5,
        "has no reply and no dead letter in its place",
        changed(dead_letters=lambda e: without(e.dead_letters, *of(e.dead_letters, "paul"))),
    ),
    "a commit beyond the end": (
        Invariant.I5,
        "partition 1: 999 was committed; the partition ends at",
        changed(commits=lambda e: (*e.commits, replace(e.commits[-1], offset=999))),
    ),
    "a commit that goes back": (Invariant.I6, "with no rebalance", changed(commits=lambda e: later(e, 2))),
    "a commit that is gone": (Invariant.I6, "None at", changed(commits=lambda e: later(e, 0, offset=None))),
    "too much in flight": (
        Invariant.I7,
        "worker worker-a: 9 attempts were in flight at 1; expected at most 8",
        changed(in_flight=lambda e: (*e.in_flight, InFlight(at_ms=1, worker="worker-a", attempts=9))),
    ),
    "attempts that nobody takes": (
        Invariant.I8,
        "partition 0:",
        changed(commits=lambda e: at_most(e, 0, e.ends[0] - 2)),
    ),
    "a late decision": (Invariant.I9, "ms after the deadline; expected `expired`, there is access_denied", decided_late),
    "actions that ran again without a crash": (
        Invariant.I10,
        "actions ran again 2 times; expected at most 0, for 0 crashes",
        changed(crashes=lambda _: ()),
    ),
    "more runs than crashes explain": (
        Invariant.I10,
        "sven (40), ",
        changed(
            crashes=lambda e: e.crashes[:1],
            side_effects=lambda e: (*e.side_effects, *[SideEffect(at_ms=1, worker="w", action="note", attempt_id="sven")] * 40),
        ),
    ),
    "an action that ran for nobody": (
        Invariant.I10,
        "zoe: note ran for it at 1; the attempts topic has no such id",
        changed(side_effects=lambda e: (*e.side_effects, SideEffect(at_ms=1, worker="w", action="note", attempt_id="zoe"))),
    ),
    "a reply to a topic that is not allowed": (
        Invariant.STRAY,
        "has a reply at elsewhere-0-0; expected nowhere",
        changed(
            replies=lambda e: (
                *e.replies,
                replace(
                    reply(e, "sven"),
                    topic="elsewhere",
                    partition=0,
                    offset=0,
                    headers=(("kafka_correlationId", b"c-13"), ("gate-attempt-id", b"jack"), ("gate-status", b"approved")),
                ),
            )
        ),
    ),
    "a reply on the wrong partition": (
        Invariant.STRAY,
        "sven (attempts-",
        changed(replies=lambda e: (*e.replies, replace(reply(e, "sven"), partition=1 - reply(e, "sven").partition, offset=99))),
    ),
    "a reply that nobody asked for": (
        Invariant.STRAY,
        "is a reply for sven, correlation c-999; nobody asked so",
        changed(
            replies=lambda e: behind(e.replies, reply(e, "sven"), headers=headers(reply(e, "sven"), kafka_correlationId=b"c-999"))
        ),
    ),
    "a dead letter of no attempt": (
        Invariant.STRAY,
        "is the dead letter of attempts-",
        changed(
            dead_letters=lambda e: behind(
                e.dead_letters,
                of(e.dead_letters, "jack")[0],
                headers=headers(of(e.dead_letters, "jack")[0], gate__dlq__offset=INT64.pack(999)),
            )
        ),
    ),
    "a dead letter for another reason": (
        Invariant.STRAY,
        "is for whim; expected reply_topic_not_allowed",
        changed(
            dead_letters=lambda e: behind(
                e.dead_letters,
                of(e.dead_letters, "jack")[0],
                headers=headers(of(e.dead_letters, "jack")[0], gate__dlq__reason=b"whim"),
            )
        ),
    ),
    "a dead letter that is not what was asked": (
        Invariant.STRAY,
        "has another key, value or header than the attempt",
        changed(dead_letters=lambda e: behind(e.dead_letters, of(e.dead_letters, "jack")[0], value=b"{}")),
    ),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_violation_is_found_as_what_it_is_and_alone(name: str) -> None:
    invariant, words, plant = PLANTED[name]

    found = check(plant(CLEAN))

    assert {invariant} == {violation.invariant for violation in found}, "\n".join(map(str, found))
    assert any(words in str(violation) for violation in found), "\n".join(map(str, found))


def test_every_invariant_has_a_planted_violation() -> None:
    assert set(Invariant) == {invariant for invariant, _, _ in PLANTED.values()}


def test_reply_that_comes_as_its_asker_stops_waiting_may_complete_it() -> None:
    assert [] == said(asked(CLEAN, "fred", outcome=Outcome.UNKNOWN))


def test_commit_that_goes_back_with_a_change_of_members_is_none() -> None:
    assert [] == said(CLEAN.but(commits=later(CLEAN, 2, members=("someone else",))))


def test_commit_that_goes_back_in_a_rebalance_that_the_run_knows_of_is_none() -> None:
    at_ms = CLEAN.commits[-1].seen_ms + 59_000

    assert [] == said(CLEAN.but(commits=later(CLEAN, 2), rebalances=(at_ms,)))


def test_reply_by_the_old_number_of_partitions_is_where_it_may_be() -> None:
    grown = {**CLEAN.partitions, "replies": (2, 16)}

    assert [] == said(CLEAN.but(partitions=grown))
    assert {Invariant.STRAY, Invariant.I5} <= {v.invariant for v in check(CLEAN.but(partitions={**grown, "replies": (16,)}))}


def test_id_that_was_told_two_decisions_is_decided_twice() -> None:
    told = reply(CLEAN, "sven")
    twice = CLEAN.but(replies=behind(CLEAN.replies, told, value=body(told, decided_at="never")))

    assert 1 == figures(twice).decided_twice


# -- Violations planted anywhere ----------------------------------------------------------------------------------------


@given(SCENARIOS, st.data())
def test_reply_that_was_tampered_with_is_found_wherever_it_is(steps: list[Step], data: st.DataObject) -> None:
    evidence = play(steps)
    assume(evidence.replies)
    victim = data.draw(st.sampled_from(evidence.replies))

    found = check(evidence.but(replies=put(evidence.replies, victim, value=body(victim, chain="sha256:other"))))

    assert [Invariant.I3] == [violation.invariant for violation in found]


@given(SCENARIOS, st.data())
def test_decision_that_is_gone_is_found_wherever_it_was(steps: list[Step], data: st.DataObject) -> None:
    evidence = play(steps)
    told = [case.decision.record for case in Reading(evidence).cases if case.decision is not None and case.reply is not None]
    assume(told)  # where nobody was told, a losing record may as well have been the decision
    gone = data.draw(st.sampled_from(told))

    assert [] != check(evidence.but(decisions=without(evidence.decisions, gone)))
