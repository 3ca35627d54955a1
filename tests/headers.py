"""The names of the headers that mean something, for tests that make records of them."""

from __future__ import annotations

from typing import Final

OF_AN_ATTEMPT: Final = (
    "kafka_correlationId",
    "REPLY_CORRELATION_ID",
    "kafka_replyTopic",
    "REPLY_TOPIC",
    "kafka_replyPartition",
    "REPLY_PARTITION",
    "gate-attempt-id",
    "gate-timeout-ms",
    "traceparent",
)
OF_THE_LEDGER: Final = ("digest", "source", "attempt-ts", "scope")
