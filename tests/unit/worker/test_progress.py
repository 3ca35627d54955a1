"""What stands still is told from what is slow."""

from __future__ import annotations

from gate.worker.progress import ONE_STANDSTILL_LOOKS, STANDSTILL_LOOKS, UNANSWERED_LOOKS, Answers, Deliveries


def test_attempts_that_wait_and_do_not_arrive_are_a_standstill_after_so_many_looks_and_not_before() -> None:
    deliveries = Deliveries()

    looks = [deliveries.look({0: 5, 2: 7}, 3) for _ in range(STANDSTILL_LOOKS + 1)]

    assert [[]] * STANDSTILL_LOOKS == looks[:STANDSTILL_LOOKS]  # the first sees that three were delivered before
    assert [0, 2] == looks[-1]


def test_a_delivery_anywhere_and_a_moment_in_which_nothing_waits_begin_the_count_anew() -> None:
    deliveries = Deliveries()
    for delivered in range(1, 100):
        assert [] == deliveries.look({0: 5}, delivered)
    for _ in range(STANDSTILL_LOOKS - 1):
        assert [] == deliveries.look({0: 5}, 99)
    assert [] == deliveries.look({}, 99)

    for _ in range(STANDSTILL_LOOKS - 1):
        assert [] == deliveries.look({0: 5}, 99)
    deliveries.begin_anew()
    assert [] == deliveries.look({0: 5}, 99)


def test_one_partition_that_stands_still_while_others_go_on_is_found_later() -> None:
    deliveries = Deliveries()

    looks = [deliveries.look({0: 5, 1: number}, number) for number in range(ONE_STANDSTILL_LOOKS + 1)]

    assert [[]] * ONE_STANDSTILL_LOOKS == looks[:-1]
    assert [0] == looks[-1]


def test_answers_have_stopped_when_some_are_owed_and_none_goes_out() -> None:
    answers = Answers()

    assert [False] * (UNANSWERED_LOOKS - 1) == [answers.look(1, 0) for _ in range(UNANSWERED_LOOKS - 1)]
    assert not answers.look(1, 1)
    assert [False] * (UNANSWERED_LOOKS - 1) == [answers.look(2, 1) for _ in range(UNANSWERED_LOOKS - 1)]
    assert answers.look(2, 1)
    assert not answers.look(0, 1)
