"""Runs a chain on one event without Kafka: the engine of `gate test` and of `gate.testing`.

It goes the way of an attempt through a worker: the same reading, the same chain, the same reply bytes. What a worker must
not tell, its trace does: what the errors of actions said.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from gate.chain.resources import Resources
from gate.chain.runner import Chain
from gate.chain.texts import FixedTexts
from gate.errors import InvalidEvent
from gate.model.decision import Cause, Outcome
from gate.model.event import Event
from gate.model.wire import ATTEMPT_ID, Ask, decision_document, encode_reply, read_ask, read_document, warning
from gate.model.wire import TIMEOUT_MS as TIMEOUT_HEADER

MAX_EVENT_BYTES: Final = 256 * 1024
TIMEOUT_MS: Final = 30_000
MAX_TIMEOUT_MS: Final = 120_000
"""As long as any asker may wait (GATE_MAX_TIMEOUT_MS)."""


@dataclass(kw_only=True)
class _Record:
    """The record that an attempt would have come in."""

    key: bytes | None
    headers: Sequence[tuple[str, bytes]]
    value: bytes | None = None
    topic: str = "trial"
    partition: int = 0
    offset: int = 0
    timestamp: int = 0


@asynccontextmanager
async def started(chain: Chain, *, set_user_id: bool = False) -> AsyncIterator[Chain]:
    """Start a chain for trials, with a cache of its own; `set_user_id` is the setting of that name."""
    async with Resources(set_user_id=set_user_id, tells_texts=True) as resources:
        await chain.start(resources)
        try:
            yield chain
        finally:
            await chain.aclose()


async def run_trial(
    chain: Chain,
    document: Mapping[str, Any],
    *,
    attempt_id: str = "trial",
    timeout_ms: int = TIMEOUT_MS,
    deny_invalid: bool = False,
    texts: FixedTexts | None = None,
) -> dict[str, Any]:
    """Run a chain on the JSON object of an attempt; return the reply document plus `trace`, one entry for each action.

    `timeout_ms` is the asker's patience, `texts` are those of the setting `messages`. Where a worker would deny
    `invalid_attempt` this raises InvalidEvent, unless `deny_invalid`. Starts the chain if the caller has not.
    """
    if not chain.started:
        async with started(chain):
            return await run_trial(
                chain, document, attempt_id=attempt_id, timeout_ms=timeout_ms, deny_invalid=deny_invalid, texts=texts
            )

    ask = _ask(attempt_id, timeout_ms)
    try:
        outcome, user = await _decide(chain, ask, document)
    except InvalidEvent as fault:
        if not deny_invalid:
            raise

        ask.warnings.append(warning("invalid_attempt", str(fault)))
        outcome, user = chain.not_run(Cause.INVALID_ATTEMPT), {}

    decided_at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    decision = decision_document(
        attempt_id=ask.attempt_id,
        outcome=outcome,
        warnings=ask.warnings,
        chain=chain.hash,
        decided_at=decided_at,
        texts=None if texts is None else texts.for_document(document),
    )
    reply: dict[str, Any] = orjson.loads(encode_reply(ask, decision, user).value or b"")
    reply["trace"] = [action.to_json() for action in outcome.trace]
    return reply


def _ask(attempt_id: str, timeout_ms: int) -> Ask:
    key = attempt_id.encode()
    record = _Record(key=key, headers=[(ATTEMPT_ID, key), (TIMEOUT_HEADER, str(timeout_ms).encode())])
    return read_ask(record, default_timeout_ms=TIMEOUT_MS, max_timeout_ms=MAX_TIMEOUT_MS)


async def _decide(chain: Chain, ask: Ask, document: Mapping[str, Any]) -> tuple[Outcome, dict[str, Any]]:
    """Return what the chain came to, and the `user` that the event has."""
    try:
        value = orjson.dumps(document)
    except orjson.JSONEncodeError as error:
        raise InvalidEvent("$", f"cannot be written as JSON: {error}") from None

    read, _ = read_document(value, max_bytes=MAX_EVENT_BYTES)
    event = Event.from_document(read)
    outcome = chain.run(event, attempt_id=ask.attempt_id, patience_s=ask.timeout_ms / 1000 - ask.reserve_s)
    return await outcome if asyncio.iscoroutine(outcome) else outcome, read["user"]
