"""Each setting that weakens a promise is named, with what to set; nothing else is."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gate.config import Settings
from gate.kafka.promises import OFFSETS_TOPIC, Topic, judge

SETTINGS = Settings()
ATTEMPTS, LEDGER, REPLIES, DLQ = (
    "registration.attempts",
    "registration.decisions",
    "registration.replies",
    "registration.attempts.dlq",
)
HOUR, WEEK = 3_600_000, 7 * 24 * 3_600_000


def good() -> dict[str, Topic]:
    config = {
        "cleanup.policy": "delete",
        "message.timestamp.type": "LogAppendTime",
        "max.message.bytes": "1048588",
        "min.insync.replicas": "2",
        "retention.bytes": "-1",
        "retention.ms": str(WEEK),
        "segment.ms": str(HOUR),
        "unclean.leader.election.enable": "false",
    }
    topics = {name: Topic(name=name, partitions=4, replication=3, config=config) for name in (ATTEMPTS, LEDGER, REPLIES, DLQ)}
    return topics | {LEDGER: change(topics[LEDGER], "retention.ms", WEEK + HOUR + 240_000)}


def change(topic: Topic, setting: str, value: object) -> Topic:
    if setting in {"partitions", "replication", "config"}:
        return replace(topic, **{setting: value})
    assert topic.config
    return replace(topic, config={**topic.config, setting: str(value)})


def findings(topics: dict[str, Topic]) -> list[tuple[str, str, str, str]]:
    return [(finding.topic, finding.setting, finding.found, finding.wanted) for finding in judge(SETTINGS, topics)]


def test_topics_that_keep_all_promises_have_no_finding():
    assert [] == judge(SETTINGS, good())


@pytest.mark.parametrize(
    ("topic", "setting", "value", "wanted"),
    [
        (LEDGER, "replication", 1, "3 or more"),
        (LEDGER, "replication", 2, "3 or more"),
        (ATTEMPTS, "replication", 2, "3 or more"),
        (REPLIES, "replication", 1, "2 or more"),
        (DLQ, "replication", 1, "2 or more"),
        (LEDGER, "min.insync.replicas", 1, "2"),
        (ATTEMPTS, "min.insync.replicas", 1, "2"),
        (REPLIES, "min.insync.replicas", 1, "2"),
        (LEDGER, "min.insync.replicas", 3, "2"),
        (DLQ, "max.message.bytes", 1000, "at least 1048588"),
        (LEDGER, "unclean.leader.election.enable", "true", "false"),
        (ATTEMPTS, "unclean.leader.election.enable", "true", "false"),
        (LEDGER, "cleanup.policy", "compact", "delete"),
        (LEDGER, "cleanup.policy", "compact,delete", "delete"),
        (REPLIES, "cleanup.policy", "compact", "delete"),
        (LEDGER, "retention.bytes", 1_000_000, "-1"),
        (ATTEMPTS, "retention.bytes", 1_000_000, "-1"),
        (ATTEMPTS, "message.timestamp.type", "CreateTime", "LogAppendTime"),
        (LEDGER, "message.timestamp.type", "CreateTime", "LogAppendTime"),
        (LEDGER, "partitions", 3, f"the same number as {ATTEMPTS}"),
        (LEDGER, "retention.ms", WEEK + HOUR + 239_999, f"at least {WEEK + HOUR + 240_000}"),
        (ATTEMPTS, "retention.ms", HOUR - 1, f"at least {HOUR}"),
        (REPLIES, "retention.ms", 119_999, "at least 120000"),
        (DLQ, "retention.ms", HOUR, f"at least {24 * HOUR}"),
    ],
)
def test_one_weak_setting_is_one_finding_that_says_what_to_set(topic, setting, value, wanted):
    topics = good()
    topics[topic] = change(topics[topic], setting, value)

    assert [(topic, setting, str(value), wanted)] == findings(topics)


def test_a_ledger_that_keeps_everything_keeps_long_enough():
    topics = good()
    topics[LEDGER] = change(topics[LEDGER], "retention.ms", -1)

    assert [] == findings(topics)


def test_attempts_that_are_kept_for_ever_need_a_ledger_that_is():
    topics = good()
    topics[ATTEMPTS] = change(topics[ATTEMPTS], "retention.ms", -1)

    assert [(LEDGER, "retention.ms", str(WEEK + HOUR + 240_000), "-1")] == findings(topics)


def test_a_longer_window_needs_a_longer_ledger():
    topics = good()

    assert ["retention.ms"] == [finding.setting for finding in judge(Settings(window_ms=120_001), topics)]


def test_two_replicas_of_replies_are_enough_and_then_one_in_sync_is():
    topics = good()
    topics[REPLIES] = change(change(topics[REPLIES], "replication", 2), "min.insync.replicas", 1)

    assert [] == findings(topics)


def test_replies_and_dead_letters_may_have_other_partition_counts_and_their_senders_time():
    topics = good()
    for name in (REPLIES, DLQ):
        topics[name] = change(change(topics[name], "partitions", 1), "message.timestamp.type", "CreateTime")

    assert [] == findings(topics)


def test_the_groups_offsets_need_replicas_too():
    for replication, expected in ((1, [(OFFSETS_TOPIC, "replication", "1", "3 or more")]), (3, [])):
        offsets = Topic(name=OFFSETS_TOPIC, partitions=50, replication=replication, config=None)

        assert expected == findings(good() | {OFFSETS_TOPIC: offsets})


def test_missing_topics_are_named():
    assert [(name, "topic", "missing", "there") for name in (ATTEMPTS, LEDGER, REPLIES, DLQ)] == findings({})


def test_a_topic_whose_settings_we_may_not_read_is_named_and_the_rest_still_checked():
    topics = good()
    topics[LEDGER] = replace(topics[LEDGER], config=None, partitions=5)

    assert [
        (LEDGER, "permission", "missing", "DescribeConfigs"),
        (LEDGER, "partitions", "5", f"the same number as {ATTEMPTS}"),
    ] == findings(topics)


def test_a_finding_reads_as_one_line():
    topics = good()
    topics[LEDGER] = change(topics[LEDGER], "replication", 1)

    assert ["registration.decisions: replication is 1, should be 3 or more: records are lost with a broker (C1)"] == [
        str(finding) for finding in judge(SETTINGS, topics)
    ]
