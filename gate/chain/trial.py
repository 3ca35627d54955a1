"""Runs a chain on one event without Kafka: the engine of `gate test`.

It goes the way of an attempt through a worker: the same reading, the same chain, the same reply bytes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from gate.chain.runner import Chain
from gate.chain.texts import FixedTexts
from gate.model.event import Event
from gate.model.wire import Ask, decision_document, encode_reply, read_ask, read_document

MAX_EVENT_BYTES: Final = 256 * 1024
TIMEOUT_MS: Final = 30_000


@dataclass(kw_only=True)
class _Record:
    """The record that an attempt would have come in."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]]
    topic: str = "trial"
    partition: int = 0
    offset: int = 0
    timestamp: int = 0


async def run_trial(
    chain: Chain, document: Mapping[str, Any], *, attempt_id: str = "trial", texts: FixedTexts | None = None
) -> dict[str, Any]:
    """Run a chain on the JSON object of an attempt; return the reply document plus `trace`, one entry for each action.

    `texts` are those of the setting `messages`. Raises InvalidEvent where a worker would deny `invalid_attempt`. Starts the
    chain if the caller has not.
    """
    if not chain.started:
        async with chain:
            return await run_trial(chain, document, attempt_id=attempt_id, texts=texts)

    ask = _ask(document, attempt_id)
    event_document, _ = read_document(ask.record.value, max_bytes=MAX_EVENT_BYTES)
    event = Event.from_document(event_document)
    outcome = chain.run(event, attempt_id=ask.attempt_id, patience_s=ask.timeout_ms / 1000)

    if asyncio.iscoroutine(outcome):
        outcome = await outcome

    decided_at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    decision = decision_document(
        attempt_id=ask.attempt_id,
        outcome=outcome,
        warnings=ask.warnings,
        chain=chain.hash,
        decided_at=decided_at,
        texts=None if texts is None else texts.for_document(event_document),
    )
    reply: dict[str, Any] = orjson.loads(encode_reply(ask, decision, event_document["user"]).value or b"")
    reply["trace"] = [action.to_json() for action in outcome.trace]
    return reply


def _ask(document: Mapping[str, Any], attempt_id: str) -> Ask:
    key = attempt_id.encode()
    record = _Record(key=key, value=orjson.dumps(document), headers=[("gate-attempt-id", key)])
    return read_ask(record, default_timeout_ms=TIMEOUT_MS, max_timeout_ms=TIMEOUT_MS)
