"""Where a reply goes, whatever the asker wrote into the address."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gate.kafka.partitioner import partition_of
from gate.model.wire import Ask
from gate.worker.replies import Address, AddressBook, Reason

TOPICS = {
    "registration.replies": 4,
    "registration.replies.eu": 2,
    "attempts": 4,
    "decisions": 4,
    "dlq": 1,
    "registration.repliesX": 3,
}


class Record:
    topic, partition, offset, timestamp, value, headers = "attempts", 0, 0, 0, b"", ()

    def __init__(self, key: bytes | None) -> None:
        self.key = key


def ask(topic: str | None = None, partition: int | None = None, key: bytes | None = b"k") -> Ask:
    return Ask(
        record=Record(key),
        attempt_id="a-1",
        deadline_ms=0,
        timeout_ms=0,
        correlation_header=None,
        correlation_id=None,
        reply_topic=topic,
        reply_partition=partition,
        traceparent=None,
        named=True,
        warnings=[],
    )


def book(*patterns: str, **options: Any) -> AddressBook:
    given_: dict[str, Any] = {
        "default_topic": "registration.replies",
        "patterns": patterns or ("registration.replies*",),
        "forbidden": ("attempts", "decisions", "dlq"),
        "partitions": TOPICS.get,
    }
    return AddressBook(**{**given_, **options})


def test_no_topic_is_the_default_topic_and_no_partition_is_that_of_the_key() -> None:
    assert Address("registration.replies", partition_of(b"k", 4), None) == book().find(ask())


@pytest.mark.parametrize("key", [None, b""])
def test_without_a_key_the_attempt_id_chooses_the_partition(key: bytes | None) -> None:
    assert Address("registration.replies", partition_of(b"a-1", 4), None) == book().find(ask(key=key))


def test_named_topic_and_partition_are_honoured() -> None:
    assert Address("registration.replies.eu", 1, None) == book().find(ask("registration.replies.eu", 1))


@pytest.mark.parametrize("partition", [-1, 2, 2**31 - 1])
def test_partition_that_is_not_there_is_replaced_and_a_fault(partition: int) -> None:
    address = book().find(ask("registration.replies.eu", partition))

    assert Address("registration.replies.eu", partition_of(b"k", 2), Reason.REPLY_PARTITION_INVALID) == address


@pytest.mark.parametrize("topic", ["elsewhere", "Registration.replies", "xregistration.replies"])
def test_topic_outside_the_patterns_is_not_allowed(topic: str) -> None:
    assert Address(None, 0, Reason.REPLY_TOPIC_NOT_ALLOWED) == book().find(ask(topic))


@pytest.mark.parametrize("topic", ["attempts", "decisions", "dlq"])
def test_our_own_topics_are_never_allowed_whatever_the_pattern(topic: str) -> None:
    assert Address(None, 0, Reason.REPLY_TOPIC_NOT_ALLOWED) == book("*").find(ask(topic))


def test_default_topic_may_be_named_although_no_pattern_covers_it() -> None:
    assert Address("registration.replies", 0, None) == book("other").find(ask("registration.replies", 0))


def test_name_that_no_topic_can_have_is_illegal_and_never_looked_up() -> None:
    def never(topic: str) -> int:
        raise AssertionError(topic)

    assert Address(None, 0, Reason.REPLY_TOPIC_ILLEGAL) == book(partitions=never).find(ask(""))


def test_topic_that_is_not_allowed_is_never_looked_up() -> None:
    def never(topic: str) -> int:
        raise AssertionError(topic)

    assert Reason.REPLY_TOPIC_NOT_ALLOWED == book(partitions=never).find(ask("elsewhere")).fault


@pytest.mark.parametrize("topic", [None, "registration.replies.gone"])
def test_topic_that_the_broker_does_not_have_is_unknown_the_default_one_too(topic: str | None) -> None:
    found = book(default_topic="registration.replies.none").find(ask(topic))

    assert Address(None, 0, Reason.REPLY_TOPIC_UNKNOWN) == found


def test_topic_that_is_made_later_is_found_later() -> None:
    topics = dict[str, int]()
    addresses = book(partitions=topics.get)
    assert Reason.REPLY_TOPIC_UNKNOWN == addresses.find(ask("registration.replies.new")).fault

    topics["registration.replies.new"] = 1

    assert Address("registration.replies.new", 0, None) == addresses.find(ask("registration.replies.new"))


@given(
    topic=st.none() | st.sampled_from([*TOPICS, "", "nowhere"]),
    partition=st.none() | st.integers(-1, 2**31 - 1),
    key=st.none() | st.binary(max_size=5),
)
def test_address_is_always_one_that_the_broker_has_or_none(topic: str | None, partition: int | None, key: bytes | None) -> None:
    address = book().find(ask(topic, partition, key))

    if address.topic is None:
        assert address.fault is not None
    else:
        assert address.topic not in {"attempts", "decisions", "dlq"}
        assert 0 <= address.partition < TOPICS[address.topic]


@pytest.mark.parametrize("topic", ["__consumer_offsets", "__transaction_state", "__cluster_metadata"])
def test_kafkas_own_topics_are_never_replied_to_whatever_the_patterns(topic: str) -> None:
    everything = book("*", "__*", topic, partitions=lambda _: 50)

    assert Address(None, 0, Reason.REPLY_TOPIC_NOT_ALLOWED) == everything.find(ask(topic))
