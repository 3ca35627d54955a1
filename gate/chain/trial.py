"""Runs a chain on one event without Kafka: the engine of `gate test` and of `gate.testing`.

It goes the way of an attempt through a worker: the same reading, the same chain, the same reply bytes. What a worker must
not tell, it adds to the trace: what an action raised, and where.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import orjson

from gate.chain.action import Action, Code
from gate.chain.api import Api
from gate.chain.runner import Chain
from gate.errors import InvalidEvent
from gate.model.decision import Cause, Outcome, fixed_denial
from gate.model.event import Event
from gate.model.wire import ATTEMPT_ID, Ask, decision_document, encode_reply, read_ask, read_document, warning
from gate.model.wire import TIMEOUT_MS as TIMEOUT_HEADER

MAX_EVENT_BYTES: Final = 256 * 1024
TIMEOUT_MS: Final = 30_000
MAX_TIMEOUT_MS: Final = 120_000
RESERVE_S: Final = 0.25
"""Kept back of the asker's patience, at most a tenth of it, as a worker does (DESIGN.md section 3, rule 7)."""

MAX_RAISED_CHARACTERS: Final = 500

_raised: ContextVar[dict[str, str] | None] = ContextVar("what actions of the running trial raised, by name", default=None)


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


async def run_trial(
    chain: Chain,
    document: Mapping[str, Any],
    *,
    attempt_id: str = "trial",
    timeout_ms: int = TIMEOUT_MS,
    deny_invalid: bool = False,
) -> dict[str, Any]:
    """Run a chain on the JSON object of an attempt; return the reply document plus `trace`, one entry for each action.

    An entry of an action that raised has `raised`: what, and where. `timeout_ms` is the asker's patience. Where a worker
    would deny `invalid_attempt` this raises InvalidEvent, unless `deny_invalid`. Starts the chain if the caller has not.
    """
    if not chain.started:
        async with chain:
            return await run_trial(chain, document, attempt_id=attempt_id, timeout_ms=timeout_ms, deny_invalid=deny_invalid)

    for action in chain.actions:
        _watch(action)

    ask = _ask(attempt_id, timeout_ms)
    raised: dict[str, str] = {}
    outer = _raised.set(raised)
    try:
        outcome, user = await _decide(chain, ask, document)
    except InvalidEvent as fault:
        if not deny_invalid:
            raise

        ask.warnings.append(warning("invalid_attempt", str(fault)))
        outcome, user = Outcome(denial=fixed_denial(Cause.INVALID_ATTEMPT)), {}
    finally:
        _raised.reset(outer)

    decided_at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    decision = decision_document(
        attempt_id=ask.attempt_id, outcome=outcome, warnings=ask.warnings, chain=chain.hash, decided_at=decided_at
    )
    reply: dict[str, Any] = orjson.loads(encode_reply(ask, decision, user).value or b"")
    reply["trace"] = [_entry(action.to_json(), raised.get(action.name)) for action in outcome.trace]
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
    patience_s = ask.timeout_ms / 1000
    outcome = chain.run(event, attempt_id=ask.attempt_id, patience_s=patience_s - min(RESERVE_S, patience_s / 10))
    return await outcome if asyncio.iscoroutine(outcome) else outcome, read["user"]


def _entry(entry: dict[str, Any], raised: str | None) -> dict[str, Any]:
    return entry if raised is None else {**entry, "raised": raised}


# -- What an action raised, and where -----------------------------------------------------------------------------------


class _Watched:
    """An action's code that notes what it raises."""

    def __init__(self, action: Action) -> None:
        self.waits = action.code.waits
        self._action = action
        self._code: Code = action.code

    def __repr__(self) -> str:
        return f"<watched {self._code!r}>"

    def run_by_hand(self, event: Event, api: Api) -> None:
        """Run to the end at once."""
        try:
            self._code.run_by_hand(event, api)
        except BaseException as error:
            self._note(error)
            raise

    async def run(self, event: Event, api: Api) -> None:
        """Run as an awaitable."""
        try:
            await self._code.run(event, api)
        except BaseException as error:
            self._note(error)
            raise

    def _note(self, error: BaseException) -> None:
        raised = _raised.get()

        if raised is not None:
            what = "was cut" if isinstance(error, asyncio.CancelledError) else _worded(error)
            text = self._action.redact(what + self._where(error))
            raised[self._action.name] = text if len(text) <= MAX_RAISED_CHARACTERS else text[: MAX_RAISED_CHARACTERS - 1] + "…"

    def _where(self, error: BaseException) -> str:
        """Return the innermost line of the action's own file."""
        file = str(self._action.file)
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        return f", {file}:{lines[-1]}" if lines else ""


def _watch(action: Action) -> None:
    if not isinstance(action.code, _Watched):
        watched = _Watched(action)
        action.code = watched
        action.run_by_hand = watched.run_by_hand


def _worded(error: BaseException) -> str:
    try:
        text = " ".join(str(error).split())
    except Exception:  # noqa: BLE001 - the message of a foreign exception
        text = ""

    name = type(error).__name__
    return f"{name}: {text}" if text else name
