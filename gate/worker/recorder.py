"""What the worker counts and times, with metric children cached for the hot path."""

from __future__ import annotations

import asyncio
import time

from gate import log as logs
from gate.chain.resources import Resources
from gate.metrics import Counter, Histogram, Metrics
from gate.model.decision import Cause, Outcome
from gate.worker.clock import BrokerClock
from gate.worker.partitions import Flight
from gate.worker.replies import Reason

log = logs.get(__name__)


class Recorder:
    """Turns what happens into metrics and log lines.

    A denied or failed attempt is one line; an approved one is at debug level.
    """

    def __init__(self, metrics: Metrics, clock: BrokerClock) -> None:
        self.metrics = metrics
        self._clock = clock
        self._decisions: dict[tuple[str, str, str], Counter] = {}
        self._actions: dict[tuple[str, str], Histogram] = {}
        self._replies: dict[str, Counter] = {}

    def received(self, dropped: list[str]) -> None:
        """An attempt was delivered; `dropped` are the fields it must not carry."""
        self.metrics.attempts_received_total.inc()
        for name in dropped:
            self.metrics.ignored_fields_total.labels(name).inc()

    def ran(self, flight: Flight, outcome: Outcome) -> None:
        """A chain ended; actions that failed on the way are a line each, with the class of the error and its place."""
        for entry in outcome.trace:
            key = (entry.name, entry.outcome.value)
            child = self._actions.get(key)
            if child is None:
                child = self._actions[key] = self.metrics.action_duration_seconds.labels(*key)
            child.observe(entry.duration_ms / 1000)
            if entry.tries > 1:
                self.metrics.action_retries_total.labels(entry.name).inc(entry.tries - 1)
            if entry.error is not None:
                log.warning(
                    "action_failed",
                    attempt_id=flight.attempt_id,
                    action=entry.name,
                    outcome=entry.outcome.value,
                    error=entry.error,
                    at=entry.error_at,
                )
        for call in outcome.outbound:
            self.metrics.action_outbound_seconds.labels(call.action, call.result).observe(call.duration_s)

    def resources(self, resources: Resources) -> None:
        """What the chains have done to what they share, since the start."""
        for metric, total in (
            (self.metrics.late_api_calls_total, resources.late_calls),
            (self.metrics.abandoned_threads_total, resources.threads.abandoned),
        ):
            metric.inc(total - metric.value)

    def looped(self, late_s: float) -> None:
        """The event loop ran a timer so late."""
        self.metrics.event_loop_lag_seconds.observe(max(0.0, late_s))
        self.metrics.event_loop_tasks.set(len(asyncio.all_tasks()))

    def blocked(self, action: str, seconds: float) -> None:
        """An action, or something else where its name is empty, has kept the event loop from turning."""
        self.metrics.event_loop_blocked_total.labels(action).inc()
        self.metrics.event_loop_lag_seconds.observe(seconds)

    def chain_changed(self, before: str, now: str) -> None:
        """Attempts are decided by another chain from now on."""
        self.metrics.set_build_info(now, before=before)

    def waited(self, seconds: float) -> None:
        """An ask was taken after waiting so long in its topic."""
        self.metrics.queue_wait_seconds.observe(seconds)

    def decided(self, flight: Flight) -> None:
        """What was decided here became the decision."""
        document = flight.document or {}
        denial = document.get("denial")
        status = document["status"]
        cause = "" if denial is None else denial["cause"]
        action = "" if denial is None else denial.get("action", "")
        key = (status, cause, action)
        child = self._decisions.get(key)
        if child is None:
            child = self._decisions[key] = self.metrics.decisions_total.labels(*key)
        child.inc()
        if denial is None:
            log.debug("attempt_approved", attempt_id=flight.attempt_id, source=flight.source)
        else:
            _log_denial(flight, cause, denial["reason"], action)

    def duplicate(self, flight: Flight, *, lost: bool) -> None:
        """An ask is answered by a decision that was not made for it here."""
        assert flight.answer is not None
        if lost:
            source = "other_worker"
        elif flight.answer.entry.source == flight.source:
            source = "redelivery"
        else:
            source = "client"
        self.metrics.duplicates_total.labels(source).inc()
        if flight.answer.conflict:
            _log_denial(flight, Cause.CONFLICT.value, Cause.CONFLICT.value, "")

    def duplicate_delivery(self) -> None:
        """An ask was delivered again while it is in flight or complete."""
        self.metrics.duplicates_total.labels("redelivery").inc()

    def reply(self, result: str) -> None:
        """A reply was sent, or was not."""
        child = self._replies.get(result)
        if child is None:
            child = self._replies[result] = self.metrics.replies_total.labels(result)
        child.inc()

    def out(self, flight: Flight) -> None:
        """The asker of an attempt waits no longer."""
        self.metrics.decision_duration_seconds.observe(time.monotonic() - flight.started_at)
        self.metrics.end_to_end_seconds.observe(max(0.0, self._clock.now_ms() - flight.timestamp_ms) / 1000)

    def dead_letter(self, reason: Reason) -> None:
        """An attempt became a dead letter."""
        self.metrics.dlq_total.labels(reason.value).inc()

    def miskeyed(self) -> None:
        """An attempt stands in a partition where its retries may not come."""
        self.metrics.miskeyed_attempts_total.inc()

    def appended(self, seconds: float) -> None:
        """A batch of decisions was acknowledged."""
        self.metrics.ledger_append_seconds.observe(seconds)

    def gap(self) -> None:
        """Somebody else wrote between two of our decisions."""
        self.metrics.ledger_gaps_total.inc()

    def rewound(self) -> None:
        """The ledger lost records that were acknowledged."""
        self.metrics.ledger_rewinds_total.inc()

    def restarted(self, client: str) -> None:
        """A Kafka client was replaced."""
        self.metrics.client_restarts_total.labels(client).inc()

    def rebalanced(self, seconds: float, partitions: int) -> None:
        """The group was rebalanced, and so many partitions are ours now."""
        self.metrics.rebalances_total.inc()
        self.metrics.rebalance_duration_seconds.observe(seconds)
        self.metrics.partitions_assigned.set(partitions)

    def committed(self, seconds: float) -> None:
        """Offsets were committed."""
        self.metrics.commit_duration_seconds.observe(seconds)

    def commit_failed(self) -> None:
        """Offsets could not be committed; the next try covers them."""
        self.metrics.commit_failures_total.inc()

    def lag(self, partition: int, lag: int | None, span: int) -> None:
        """A partition is so far behind its end (None: unknown yet), its intake so far ahead of its oldest incomplete attempt."""
        if lag is not None:
            self.metrics.partition_lag.labels(str(partition)).set(lag)
        self.metrics.partition_span.labels(str(partition)).set(span)


def _log_denial(flight: Flight, cause: str, reason: str, action: str) -> None:
    log.info("attempt_denied", attempt_id=flight.attempt_id, source=flight.source, cause=cause, reason=reason, action=action)
