"""The decision table, rule by rule (protocol/README.md)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from gate.ledger.answer import Entry
from gate.ledger.ports import Slice
from gate.model.decision import Scope
from gate.model.wire import LedgerHeaders, encode_ledger, read_ask
from gate.worker.partitions import CLOCK_ALLOWANCE_MS, Append, Flight, Partition, Stage, Step, Work

WINDOW_MS = 120_000
NOW = 10_000_000


@dataclass
class Record:
    offset: int
    key: bytes
    timestamp: int = NOW
    topic: str = "a"
    partition: int = 0
    value: bytes | None = b"{}"
    headers: Sequence[tuple[str, bytes]] = field(default_factory=list)


def ask(offset: int, attempt_id: str = "X", *, at: int = NOW, digest: bytes = b"c1:a") -> Flight:
    record = Record(offset, attempt_id.encode(), at, headers=[("gate-attempt-id", attempt_id.encode())])
    return Flight(read_ask(record, default_timeout_ms=1000, max_timeout_ms=1000), digest, {}, 0.0)


def decision(flight: Flight, says: str = "mine", *, scope: Scope = Scope.ID) -> Append:
    headers = LedgerHeaders(flight.attempt_id, flight.digest, flight.source, flight.timestamp_ms, scope)
    return Append(headers, encode_ledger(headers, says.encode()), flight)


def decide(partition: Partition, flight: Flight, says: str = "mine", *, scope: Scope = Scope.ID) -> Append:
    append = decision(flight, says, scope=scope)
    assert partition.decided(flight, append, {})
    return append


def told(entries: list[Entry], end: int, *, start: int = 0) -> Slice:
    return Slice(entries, end, start, end)


def sent(work: Work) -> list[tuple[int, bytes | None, bool]]:
    """What is replied to whom: offset of the ask, body of the record, conflict."""
    return [(flight.offset, flight.answer.entry.value, flight.answer.conflict) for flight in work.replies if flight.answer]


@pytest.fixture
def partition() -> Partition:
    """A partition that was assigned at its beginning and whose ledger is empty."""
    partition = Partition(0, window_ms=WINDOW_MS, bodies_max=100)
    partition.assign(0)
    partition.rebuild(0, from_ms=0, at_start=True, keep_acked=False)
    partition.aim(0)
    return partition


# -- Acknowledgements (rules 2 to 7) --------------------------------------------------------------------------------------


def test_an_acknowledgement_that_is_next_answers_its_ask_at_once(partition: Partition) -> None:
    flight = ask(0)
    partition.take(flight)

    assert [(0, b"mine", False)] == sent(partition.acknowledged(0, [decide(partition, flight)]))
    assert Stage.REPLY is flight.stage
    assert not partition.wants_ledger


def test_a_batch_is_acknowledged_in_one_step(partition: Partition) -> None:
    flights = [ask(offset, f"id-{offset}") for offset in range(3)]
    for flight in flights:
        partition.take(flight)
    work = partition.acknowledged(0, [decide(partition, flight, f"says {flight.offset}") for flight in flights])

    assert [(0, b"says 0", False), (1, b"says 1", False), (2, b"says 2", False)] == sent(work)


def test_an_acknowledgement_beyond_a_gap_answers_nobody_before_the_gap_is_read(partition: Partition) -> None:
    flight = ask(0)
    partition.take(flight)

    assert [] == sent(partition.acknowledged(1, [decide(partition, flight)]))
    assert partition.wants_ledger

    theirs = decision(ask(0), "theirs").at(0)

    assert [(0, b"theirs", False)] == sent(partition.read(told([theirs], 1)))


def test_my_own_record_in_a_gap_is_folded_like_any_other(partition: Partition) -> None:
    """The acknowledgement of an earlier copy was lost; the copy is the decision."""
    first, other = ask(0), ask(1, "Y")
    partition.take(first)
    partition.take(other)
    mine = decide(partition, first)
    partition.acknowledged(1, [decide(partition, other)])

    assert [(0, b"mine", False), (1, b"mine", False)] == sent(partition.read(told([mine.at(0)], 1)))


def test_an_acknowledgement_below_next_answers_nobody(partition: Partition) -> None:
    flight = ask(0)
    partition.take(flight)
    mine = decide(partition, flight)
    partition.read(told([decision(ask(0), "theirs").at(0), mine.at(1)], 2))
    work = partition.acknowledged(1, [mine])

    assert ([], False) == (sent(work), work.rewound)


def test_an_acknowledgement_without_an_offset_is_an_unknown_outcome(partition: Partition) -> None:
    flight = ask(0)
    partition.take(flight)
    work = partition.acknowledged(-1, [decide(partition, flight)])

    assert ([], False, Stage.APPEND) == (sent(work), work.rewound, flight.stage)


def test_a_chain_is_cancelled_once_somebody_else_has_decided(partition: Partition) -> None:
    running, other = ask(0), ask(1, "Y")
    partition.take(running)
    partition.take(other)
    partition.acknowledged(1, [decide(partition, other)])
    work = partition.read(told([decision(ask(0), "theirs").at(0)], 1))

    assert [running] == work.cancelled
    assert [(0, b"theirs", False), (1, b"mine", False)] == sent(work)
    assert not partition.decided(running, decision(running), {}), "what the chain still says comes to nothing"


def test_a_rewound_ledger_takes_nothing_and_keeps_what_is_unresolved(partition: Partition) -> None:
    first, second = ask(0), ask(1, "Y")
    partition.take(first)
    partition.acknowledged(0, [decide(partition, first)])
    partition.take(second)
    work = partition.acknowledged(0, [decide(partition, second)])

    assert work.rewound
    assert (False, False, 0, [second]) == (partition.ready, partition.covered, len(partition.table), partition.unresolved())


def test_what_was_answered_before_a_rewind_was_seen_is_still_sent(partition: Partition) -> None:
    first, second, third = ask(0), ask(1, "Y"), ask(2, "Z")
    for flight in (first, second, third):
        partition.take(flight)
    partition.acknowledged(2, [decide(partition, third)])
    work = partition.acknowledged(0, [decide(partition, first)])
    assert [(0, b"mine", False)] == sent(work)
    work = partition.acknowledged(1, [decide(partition, second), decision(ask(7, "V"))])

    assert work.rewound
    assert [(1, b"mine", False), (2, b"mine", False)] == sent(work)


def test_a_read_that_contradicts_an_acknowledgement_answers_nobody(partition: Partition) -> None:
    first, second = ask(0), ask(1, "Y")
    partition.take(first)
    partition.take(second)
    partition.acknowledged(1, [decide(partition, second)])
    work = partition.read(told([decide(partition, first).at(0), decision(ask(7, "Z")).at(1)], 2))

    assert work.rewound
    assert [] == sent(work)
    assert [first, second] == partition.unresolved()


# -- Reading (rules 8, 9, 20) ---------------------------------------------------------------------------------------------


def test_nothing_is_taken_before_the_ledger_was_read_to_its_end() -> None:
    partition = Partition(0, window_ms=WINDOW_MS, bodies_max=100)
    partition.assign(0)
    assert not partition.ready
    partition.rebuild(0, from_ms=0, at_start=True, keep_acked=False)
    partition.aim(2)
    assert (False, True) == (partition.ready, partition.wants_ledger)
    partition.read(told([decision(ask(0)).at(0)], 1))
    assert not partition.ready
    partition.read(Slice([], 2, 0, 2))  # not a record of ours

    assert (True, False) == (partition.ready, partition.wants_ledger)


def test_a_table_that_retention_overtook_begins_at_the_log_s_start(partition: Partition) -> None:
    partition.pause()
    partition.assign(0)
    partition.aim(10)
    partition.rebuild(10, from_ms=0, at_start=True, keep_acked=True)

    assert partition.ready, "nothing is left to read"


def test_what_was_acknowledged_below_the_log_s_start_is_appended_again(partition: Partition) -> None:
    flight = ask(0)
    partition.take(flight)
    append = decide(partition, flight)
    partition.acknowledged(5, [append])
    partition.rebuild(10, from_ms=0, at_start=True, keep_acked=True)

    assert [flight] == partition.unresolved()
    assert [(0, b"mine", False)] == sent(partition.acknowledged(10, [append]))


def test_a_target_that_the_ledger_lost_is_taken_back() -> None:
    partition = Partition(0, window_ms=WINDOW_MS, bodies_max=100)
    partition.assign(0)
    partition.rebuild(0, from_ms=0, at_start=True, keep_acked=False)
    partition.aim(3)
    partition.lower_aim(0)

    assert partition.ready


# -- Taking (rules 10 to 13) ----------------------------------------------------------------------------------------------


def test_a_new_ask_runs(partition: Partition) -> None:
    flight = ask(0)

    assert Step.RUN is partition.take(flight)
    assert Stage.RUN is flight.stage


def test_a_known_decision_is_sent_again_and_nothing_runs(partition: Partition) -> None:
    partition.read(told([decision(ask(0)).at(0)], 1))
    again = ask(1)

    assert Step.REPLY is partition.take(again)
    assert again.answer is not None
    assert (0, False) == (again.answer.entry.offset, again.answer.conflict)


def test_another_content_under_a_known_id_is_a_conflict(partition: Partition) -> None:
    partition.read(told([decision(ask(0)).at(0)], 1))
    other = ask(1, digest=b"c1:b")

    assert Step.REPLY is partition.take(other)
    assert other.answer is not None
    assert other.answer.conflict


def test_an_ask_whose_id_is_in_flight_waits_and_gets_the_same_answer(partition: Partition) -> None:
    first, same, other = ask(0), ask(1), ask(2, digest=b"c1:b")
    steps = [partition.take(flight) for flight in (first, same, other)]

    assert [Step.RUN, Step.WAIT, Step.WAIT] == steps
    work = partition.acknowledged(0, [decide(partition, first)])
    assert [(0, b"mine", False), (1, b"mine", False), (2, b"mine", True)] == sent(work)


def test_a_waiter_that_was_not_answered_runs_itself(partition: Partition) -> None:
    first, second, third = ask(0), ask(1), ask(2)
    for flight in (first, second, third):
        partition.take(flight)
    work = partition.acknowledged(0, [decide(partition, first, "expired", scope=Scope.ASK)])

    assert [(0, b"expired", False)] == sent(work)
    assert [second] == work.runs
    assert [(1, b"mine", False), (2, b"mine", False)] == sent(partition.acknowledged(1, [decide(partition, second)]))


def test_an_ask_in_flight_that_is_delivered_again_is_adopted(partition: Partition) -> None:
    flight = ask(0)
    partition.take(flight)
    partition.pause()
    partition.assign(0)
    partition.aim(0)

    assert Step.SKIP is partition.take(ask(0))
    partition.acknowledged(0, [decide(partition, flight)])
    partition.complete(flight)
    commit = partition.offsets.committable()
    assert commit is not None
    assert (1, 2) == (commit.offset, commit.epoch), "it completes in the new assignment"


def test_an_ask_that_is_complete_is_skipped_when_it_is_delivered_again(partition: Partition) -> None:
    open_, complete = ask(0), ask(1, "Y")
    partition.take(open_)
    partition.take(complete)
    partition.acknowledged(0, [decide(partition, complete)])
    partition.complete(complete)
    partition.pause()
    partition.assign(0)
    partition.aim(0)

    assert [Step.SKIP, Step.SKIP] == [partition.take(ask(0)), partition.take(ask(1, "Y"))]


def test_an_ask_older_than_the_table_reaches_has_it_extended(partition: Partition) -> None:
    partition.rebuild(0, from_ms=NOW, at_start=False, keep_acked=True)
    partition.aim(0)
    reach = NOW + WINDOW_MS + 2 * CLOCK_ALLOWANCE_MS

    assert Step.EXTEND is partition.take(ask(0, at=reach - 1))
    assert not partition.ready
    partition.aim(0)
    assert Step.RUN is partition.take(ask(0, at=reach)), "it was not received before"


def test_an_ask_that_needs_what_was_forgotten_has_it_read_again(partition: Partition) -> None:
    """The committed offset went back, and the first record came too late to decide by its time whether to keep the table."""
    first, later = ask(0), ask(1, "Y", at=NOW + 10 * WINDOW_MS)
    partition.take(first)
    partition.acknowledged(0, [decide(partition, first)])
    partition.complete(first)
    commit = partition.offsets.committable()
    assert commit is not None
    partition.offsets.commit_succeeded(commit)
    partition.take(later)
    partition.acknowledged(1, [decide(partition, later)])
    partition.complete(later)
    commit = partition.offsets.committable()
    assert commit is not None
    partition.offsets.commit_succeeded(commit)
    partition.take(ask(2, "Z", at=NOW + 10 * WINDOW_MS))
    assert [1] == [entry.offset for entry in partition.table], "X is forgotten"
    partition.pause()
    partition.assign(0)
    partition.aim(2)

    assert Step.EXTEND is partition.take(ask(0))


# -- Appending (rules 14 to 16) -------------------------------------------------------------------------------------------


def test_what_is_not_known_to_be_in_the_ledger_is_unresolved(partition: Partition) -> None:
    running, appending, waiting = ask(0, "X"), ask(1, "Y"), ask(2, "Y")
    for flight in (running, appending, waiting):
        partition.take(flight)
    append = decide(partition, appending)

    assert [appending] == partition.unresolved()
    partition.acknowledged(0, [append])
    assert [] == partition.unresolved()


def test_a_decision_that_was_rejected_is_replaced_by_a_smaller_one(partition: Partition) -> None:
    flight = ask(0)
    partition.take(flight)
    large = decide(partition, flight, "large")
    small = decide(partition, flight, "action_failed")

    assert (False, True) == (large.is_needed, small.is_needed)
    assert [(0, b"action_failed", False)] == sent(partition.acknowledged(0, [small]))


def test_acknowledgements_of_an_earlier_producer_still_count(partition: Partition) -> None:
    flight = ask(0)
    partition.take(flight)
    append = decide(partition, flight)

    assert [(0, b"mine", False)] == sent(partition.acknowledged(0, [append]))
    late = partition.acknowledged(1, [append])
    assert ([], False) == (sent(late), late.rewound)


def test_at_least_once_answers_before_the_ledger_has_it_and_needs_it_still(partition: Partition) -> None:
    flight, waiter = ask(0), ask(1, digest=b"c1:b")
    partition.take(flight)
    partition.take(waiter)
    append = decide(partition, flight)

    assert [(0, b"mine", False), (1, b"mine", True)] == sent(partition.assume(flight))
    partition.complete(flight)
    assert append.is_needed
    assert [] == sent(partition.acknowledged(0, [append]))


# -- Commit, assignment, revocation, eviction (rules 17 to 23) ------------------------------------------------------------


def test_an_ask_counts_as_complete_only_with_its_reply(partition: Partition) -> None:
    flight = ask(0)
    partition.take(flight)
    partition.acknowledged(0, [decide(partition, flight)])
    assert None is partition.offsets.committable()
    partition.complete(flight)

    assert partition.offsets.committable() is not None
    assert {} == partition.flying


def test_a_rebalance_that_keeps_the_partition_cancels_nothing(partition: Partition) -> None:
    flight = ask(0)
    partition.take(flight)
    partition.pause()
    partition.assign(0)

    assert (Stage.RUN, {0: flight}, False) == (flight.stage, partition.flying, partition.ready)


def test_an_acknowledgement_does_not_make_a_new_assignment_ready(partition: Partition) -> None:
    flight = ask(0)
    partition.take(flight)
    append = decide(partition, flight)
    partition.pause()
    partition.acknowledged(0, [append])
    assert not partition.ready, "a rebalance is going on"
    partition.assign(0)
    partition.acknowledged(0, [append])

    assert not partition.ready, "nobody has asked yet whether the table serves this position"


def test_what_runs_is_cancelled_and_forgotten_when_the_partition_is_gone(partition: Partition) -> None:
    running, behind = ask(0), ask(1)
    partition.take(running)
    partition.take(behind)
    work = partition.lose()

    assert ([running], [running, behind], {}) == (work.cancelled, work.dropped, partition.flying)
    assert not partition.covered, "nobody follows its ledger any more, so the window is read back when it returns"
    partition.assign(0)
    partition.rebuild(0, from_ms=0, at_start=True, keep_acked=True)
    partition.aim(0)
    assert Step.RUN is partition.take(ask(0)), "delivered again it runs again"


def test_a_waiter_taken_before_its_leader_is_forgotten_with_it(partition: Partition) -> None:
    """Delivered again out of order of the table: the leader is a later ask of the same id."""
    expired, second, third = ask(0), ask(1), ask(2)
    for flight in (expired, second, third):
        partition.take(flight)
    partition.acknowledged(0, [decide(partition, expired, "expired", scope=Scope.ASK)])
    work = partition.lose()

    assert [second] == work.cancelled
    assert [second, third] == work.dropped


def test_what_is_being_published_goes_on_when_the_partition_is_gone(partition: Partition) -> None:
    appending, behind, replying = ask(0), ask(1), ask(2, "Y")
    for flight in (appending, behind, replying):
        partition.take(flight)
    partition.acknowledged(0, [decide(partition, replying)])
    append = decide(partition, appending)
    work = partition.lose()

    assert ([], []) == (work.cancelled, work.dropped)
    assert [(0, b"mine", False), (1, b"mine", False)] == sent(partition.acknowledged(1, [append]))


def test_a_gap_is_read_for_what_is_published_even_when_the_partition_is_gone(partition: Partition) -> None:
    flight = ask(0)
    partition.take(flight)
    append = decide(partition, flight)
    partition.lose()
    partition.acknowledged(3, [append])

    assert partition.wants_ledger


def test_table_of_a_partition_that_is_gone_is_let_go_once_nothing_is_in_flight_there(partition: Partition) -> None:
    flight = ask(0)
    partition.take(flight)
    append = decide(partition, flight)
    partition.acknowledged(0, [append])
    partition.lose()
    partition.let_go()
    assert 1 == len(partition.table)

    partition.complete(flight)
    partition.let_go()
    assert (0, False) == (len(partition.table), partition.covered)


def test_what_is_acknowledged_in_a_partition_that_was_let_go_takes_up_no_room(partition: Partition) -> None:
    flight = ask(0)
    partition.take(flight)
    append = decide(partition, flight)
    partition.assume(flight)  # at_least_once: answered and complete before the ledger has it
    partition.complete(flight)
    partition.lose()

    partition.acknowledged(7, [append])
    partition.let_go()

    assert not partition.table.acked


def test_nothing_completes_in_a_partition_that_is_gone(partition: Partition) -> None:
    flight = ask(0)
    partition.take(flight)
    partition.acknowledged(0, [decide(partition, flight)])
    partition.lose()
    partition.complete(flight)

    assert None is partition.offsets.committable()


@pytest.mark.parametrize(
    ("at_ms", "kept"), [(WINDOW_MS + 2 * CLOCK_ALLOWANCE_MS, True), (WINDOW_MS + 2 * CLOCK_ALLOWANCE_MS - 1, False)]
)
def test_a_table_is_kept_where_it_reaches_back_far_enough(partition: Partition, at_ms: int, kept: bool) -> None:
    partition.rebuild(0, from_ms=0, at_start=False, keep_acked=True)

    assert kept == partition.keeps_table(at_ms)


def test_a_table_that_folds_nothing_is_never_kept() -> None:
    assert not Partition(0, window_ms=WINDOW_MS, bodies_max=1).keeps_table(NOW)


def test_the_ledger_is_read_back_a_window_and_clocks_apart_before_the_first_attempt(partition: Partition) -> None:
    back = WINDOW_MS + 2 * CLOCK_ALLOWANCE_MS

    assert NOW - back == partition.read_back_from(NOW, NOW + 5)
    assert NOW - back == partition.read_back_from(NOW + 5, NOW)


@pytest.mark.parametrize(
    ("older_by", "kept"), [(WINDOW_MS + CLOCK_ALLOWANCE_MS, True), (WINDOW_MS + CLOCK_ALLOWANCE_MS + 1, False)]
)
def test_a_decision_is_forgotten_when_no_attempt_to_come_can_need_it(partition: Partition, older_by: int, kept: bool) -> None:
    old = ask(0, at=NOW - older_by)
    partition.take(old)
    partition.acknowledged(0, [decide(partition, old)])
    partition.complete(old)
    partition.take(ask(1, "Y"))
    assert 1 == len(partition.table), "not committed: it may be asked again"
    commit = partition.offsets.committable()
    assert commit is not None
    partition.offsets.commit_succeeded(commit)
    partition.take(ask(2, "Z"))

    assert kept == bool(len(partition.table))


def test_it_says_its_state_in_one_line(partition: Partition) -> None:
    flight = ask(0)
    partition.take(flight)

    assert (
        "<Partition 0 ready, 1 in flight, <OffsetTracker owned, epoch 1, base 0, position 1, 0 done>, "
        "<LedgerTable next 0, 0 entries, 0 acked>>"
    ) == repr(partition)
    assert "<Flight X of a-0-0: run>" == repr(flight)
