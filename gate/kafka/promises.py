"""Which settings of the four topics weaken a promise, decided purely.

The conditions are those of DESIGN.md section 2, and C1, C2, C4, C5 of protocol/README.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from gate.config import Settings

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
CLOCKS_APART_MS: Final = 120_000
"""2 S of protocol/README.md: twice the allowance for clocks apart."""
FOREVER: Final = -1  # as Kafka writes it in retention.ms and retention.bytes
OFFSETS_TOPIC: Final = "__consumer_offsets"
"""Where Kafka keeps what a group has committed; there once a group has joined."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One setting of a topic that weakens a promise."""

    topic: str
    setting: str  # Kafka's name for it; or `topic`, `partitions`, `replication`, `permission`
    found: str
    wanted: str
    why: str  # which promise is weaker, and how

    def __str__(self) -> str:
        return f"{self.topic}: {self.setting} is {self.found}, should be {self.wanted}: {self.why}"


@dataclass(frozen=True, kw_only=True)
class Topic:
    """What a topic is like."""

    name: str
    partitions: int
    replication: int  # of the partition that has the fewest replicas
    config: Mapping[str, str] | None  # the settings in force; None: we may not read them

    def limit(self, setting: str) -> float:
        """Return a retention as a number that compares: Kafka's -1 is infinite."""
        value = int((self.config or {}).get(setting, FOREVER))
        return float("inf") if value == FOREVER else value

    def finding(self, setting: str, wanted: object, why: str, *, found: object = None) -> Finding:
        """Return that a setting should be another; `found` is what the settings say unless given."""
        value = (self.config or {}).get(setting) if found is None else found
        return Finding(topic=self.name, setting=setting, found=str(value), wanted=str(wanted), why=why)


def ledger_retention_ms(attempts_retention_ms: float, attempts_segment_ms: float, window_ms: int) -> float:
    """Return how long decisions must be kept: as long as an attempt can come back, and a window more (condition C4).

    A log is deleted by whole segments, so an attempt may outlive its retention by the time that its segment stays open.
    """
    return attempts_retention_ms + attempts_segment_ms + window_ms + CLOCKS_APART_MS


def judge(settings: Settings, topics: Mapping[str, Topic]) -> list[Finding]:
    """Return everything that weakens a promise; `topics` holds those of the four, and OFFSETS_TOPIC, that exist."""
    attempts, ledger = topics.get(settings.attempts_topic), topics.get(settings.decisions_topic)
    replies, dlq = topics.get(settings.replies_topic), topics.get(settings.dlq_topic)
    findings: list[Finding] = []
    for name in (settings.attempts_topic, settings.decisions_topic, settings.replies_topic, settings.dlq_topic):
        if topic := topics.get(name):
            findings += _durability(topic, replicas=3 if topic in (attempts, ledger) else 2)
        else:
            why = "make it with `gate topics create`; nothing can be served without it"
            findings.append(Finding(topic=name, setting="topic", found="missing", wanted="there", why=why))
    for topic in (attempts, ledger):
        if topic and topic.config:
            findings += _stamps(topic)
    if attempts and ledger:
        findings += _pair(settings, attempts, ledger)
    if attempts and dlq and dlq.limit("max.message.bytes") < attempts.limit("max.message.bytes"):
        wanted = f"at least {attempts.limit('max.message.bytes'):.0f}"
        findings.append(dlq.finding("max.message.bytes", wanted, "the largest dead letters are kept without their value"))
    if (offsets := topics.get(OFFSETS_TOPIC)) and offsets.replication < 3:
        why = "with the broker that has them workers cannot join, and all attempts that are kept are answered again"
        findings.append(offsets.finding("replication", "3 or more", why, found=offsets.replication))
    for topic, least_ms, why in (
        (attempts, HOUR_MS, "attempts are gone, unanswered, after an outage that lasts longer"),
        (replies, settings.max_timeout_ms, "a reply may be gone while its asker still waits (GATE_MAX_TIMEOUT_MS)"),
        (dlq, DAY_MS, "dead letters are gone before anybody looks"),
    ):
        if topic and topic.config and topic.limit("retention.ms") < least_ms:
            findings.append(topic.finding("retention.ms", f"at least {least_ms}", why))
    return findings


def _durability(topic: Topic, *, replicas: int) -> Iterator[Finding]:
    """C1: what is acknowledged stays, for its whole time."""
    if topic.replication < replicas:
        yield topic.finding("replication", f"{replicas} or more", "records are lost with a broker (C1)", found=topic.replication)
    config = topic.config
    if config is None:
        why = "grant DescribeConfigs on the topic; without it nothing else can be checked"
        yield topic.finding("permission", "DescribeConfigs", why, found="missing")
        return
    if int(config["min.insync.replicas"]) < 2 and (replicas > 2 or topic.replication > 2):
        yield topic.finding("min.insync.replicas", 2, "an acknowledged record may be on a single broker (C1)")
    if int(config["min.insync.replicas"]) >= topic.replication >= replicas:
        why = "with one broker away nothing is written, and nobody is answered"
        yield topic.finding("min.insync.replicas", topic.replication - 1, why)
    if config["unclean.leader.election.enable"] != "false":
        yield topic.finding("unclean.leader.election.enable", "false", "a replica that missed records may become the leader (C1)")
    if config["cleanup.policy"] != "delete":
        yield topic.finding("cleanup.policy", "delete", "records of one key would replace each other, or none ever go (C1)")
    if topic.limit("retention.bytes") != float("inf"):
        yield topic.finding("retention.bytes", FOREVER, "a burst removes records before their time (C1)")


def _stamps(topic: Topic) -> Iterator[Finding]:
    """C5: windows and deadlines are judged by one clock, the broker's."""
    if topic.config and topic.config["message.timestamp.type"] != "LogAppendTime":
        yield topic.finding("message.timestamp.type", "LogAppendTime", "windows and deadlines depend on strangers' clocks (C5)")


def _pair(settings: Settings, attempts: Topic, ledger: Topic) -> Iterator[Finding]:
    """C2 and C4: each attempts partition has its ledger partition, which remembers at least as long."""
    if attempts.partitions != ledger.partitions:
        why = f"{attempts.name} has {attempts.partitions}, and a partition without its twin is not served (C2)"
        yield ledger.finding("partitions", f"the same number as {attempts.name}", why, found=ledger.partitions)
    if attempts.config is None or ledger.config is None:
        return
    least_ms = ledger_retention_ms(attempts.limit("retention.ms"), attempts.limit("segment.ms"), settings.window_ms)
    if ledger.limit("retention.ms") < least_ms:
        wanted = FOREVER if least_ms == float("inf") else f"at least {least_ms:.0f}"
        sum_of = (
            f"{attempts.name}'s retention.ms and segment.ms, the window of {settings.window_ms}, {CLOCKS_APART_MS} for clocks"
        )
        yield ledger.finding("retention.ms", wanted, f"an attempt may outlive its decision and be decided again (C4: {sum_of})")
