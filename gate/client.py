"""Ask over Kafka whether a person may register, for signup services written in Python.

    from gate.client import GateClient

    async with GateClient("localhost:9092") as gate:
        decision = await gate.ask(event, timeout_s=5)

    if decision.approved:
        create_user(user_metadata=decision.user_metadata, app_metadata=decision.app_metadata)
    else:
        show(decision.denial.user_message)

`event` is the JSON object that Auth0's pre-user-registration trigger reads (DESIGN.md section 2). One client serves a
whole process: hundreds of asks may wait at once, and opening a client takes longer than asking.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
import uuid
from collections import OrderedDict
from collections.abc import Mapping
from enum import Enum, auto
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, Self, TypeVar, get_args

import orjson

from gate.config import Settings, load
from gate.errors import AskTimeout, ClientClosed, ConfigError, GateError, InvalidEvent, KafkaUnavailable
from gate.kafka.attempts import AttemptSender, NotTaken
from gate.kafka.connection import client_options, resolve_bootstrap, wait_for_kafka
from gate.kafka.granted import missing_rights
from gate.kafka.replies import ReplyReader
from gate.kafka.rights import Role
from gate.model.decision import Decision, Status
from gate.model.wire import ATTEMPT_ID, MAX_ID_BYTES, SPRING_CORRELATION_ID, TIMEOUT_MS, TRACEPARENT, Headers, Message, Record

if TYPE_CHECKING:
    from gate.metrics import ClientMetrics

OnTimeout = Literal["raise", "deny", "approve"]
"""What an ask without an answer comes to: AskTimeout, or a decision that is marked as assumed."""

REPLY_TOPIC: Final = "kafka_replyTopic"

MAX_EVENT_BYTES: Final = 1_000_000
"""Largest event that is sent: a record's usual limit of 1 MiB less key and headers. The gate's own limit is lower, and denies."""

SETTLED_MAX: Final = 10_000
"""How many asks are remembered after their end, to tell a late or second reply from one that is none of ours."""

_log = logging.getLogger(__name__)


# -- Who waits for what: pure ------------------------------------------------------------------------------------------


class Arrival(Enum):
    """What a reply on the shared topic is to this client."""

    FOREIGN = auto()  # the answer to an ask of another client; most of what arrives
    ANSWER = auto()  # the first reply to an ask that waits
    LATE = auto()  # the first reply to an ask that no longer waits
    REPEAT = auto()  # the same reply once more: a worker crashed between reply and commit
    CONTRADICTION = auto()  # a second reply that differs from the first; `strict` workers never send one
    UNKNOWN = auto()  # carries our prefix, but is too old to be remembered or was made up


Waiter = TypeVar("Waiter")


class Waiters(Generic[Waiter]):
    """Asks by correlation id, from before they are sent until the first reply.

    Correlation ids are `<instance>-<number>`. The instance is random, so one comparison tells our replies from those of
    the other clients that share the topic.
    """

    def __init__(self, instance: str, settled_max: int = SETTLED_MAX) -> None:
        self.prefix = f"{instance}-".encode()
        self._number = 0
        self._waiting: dict[bytes, Waiter] = {}
        self._settled: OrderedDict[bytes, int | None] = OrderedDict()  # digest of the first reply; None: none has come
        self._settled_max = settled_max

    def __len__(self) -> int:
        return len(self._waiting)

    def __repr__(self) -> str:
        return f"<Waiters {self.prefix.decode()}*: {len(self._waiting)} waiting, {len(self._settled)} settled>"

    def name(self) -> bytes:
        """Return a correlation id that no other ask has."""
        self._number += 1
        return self.prefix + str(self._number).encode()

    def open(self, correlation_id: bytes, waiter: Waiter) -> None:
        """Wait for the reply to `correlation_id`. To be called before the attempt is sent."""
        self._waiting[correlation_id] = waiter

    def close(self, correlation_id: bytes) -> None:
        """Wait no longer. An ask that was answered may be closed, too."""
        if self._waiting.pop(correlation_id, None) is not None:
            self._settle(correlation_id, None)

    def arrive(self, correlation_id: bytes, value: bytes) -> tuple[Arrival, Waiter | None]:
        """Say what a reply is, and hand out the waiter that it answers. The first reply closes its ask."""
        if not correlation_id.startswith(self.prefix):
            return Arrival.FOREIGN, None
        waiter = self._waiting.pop(correlation_id, None)
        digest = hash(value)
        if waiter is not None:
            self._settle(correlation_id, digest)
            return Arrival.ANSWER, waiter
        if correlation_id not in self._settled:
            return Arrival.UNKNOWN, None
        first = self._settled[correlation_id]
        if first is None:
            self._settle(correlation_id, digest)
            return Arrival.LATE, None
        return (Arrival.REPEAT if first == digest else Arrival.CONTRADICTION), None

    def close_all(self) -> list[Waiter]:
        """Wait for nothing any more and return those who did."""
        waiters = list(self._waiting.values())
        for correlation_id in tuple(self._waiting):
            self.close(correlation_id)
        return waiters

    def _settle(self, correlation_id: bytes, digest: int | None) -> None:
        self._settled[correlation_id] = digest
        if len(self._settled) > self._settled_max:
            self._settled.popitem(last=False)


def correlation_id_of(record: Record) -> bytes | None:
    """Return the correlation id of a reply to us; the last one counts."""
    for name, value in reversed(record.headers):
        if name == SPRING_CORRELATION_ID:
            return value
    return None


def encode_attempt(
    event: Mapping[str, Any],
    *,
    attempt_id: str,
    correlation_id: bytes,
    reply_topic: str,
    timeout_s: float,
    traceparent: str | None,
) -> Message:
    """Return the record of one ask (DESIGN.md section 2), keyed by its attempt id: asking again reaches the same partition.

    Raises TypeError where the event is not JSON, InvalidEvent where it is too large to send, ValueError for an attempt id
    or a time that no gate would read.
    """
    key = attempt_id.encode()
    if not 0 < len(key) <= MAX_ID_BYTES:
        raise ValueError(f"attempt_id has {len(key)} bytes; it needs 1 to {MAX_ID_BYTES}")
    if not 0 < timeout_s < 1_000_000:
        raise ValueError(f"timeout_s is {timeout_s!r}; it needs to be above 0 and below 1,000,000")
    value = orjson.dumps(event if type(event) is dict else dict(event))
    if len(value) > MAX_EVENT_BYTES:
        raise InvalidEvent("$", f"the event has {len(value)} bytes, more than the {MAX_EVENT_BYTES} that can be sent")
    headers: Headers = [
        (SPRING_CORRELATION_ID, correlation_id),
        (REPLY_TOPIC, reply_topic.encode()),
        (ATTEMPT_ID, key),
        (TIMEOUT_MS, str(max(1, round(timeout_s * 1000))).encode()),
    ]
    if traceparent is not None:
        headers.append((TRACEPARENT, traceparent.encode()))
    return Message(key, value, headers)


# -- The client --------------------------------------------------------------------------------------------------------


class GateClient:
    """Asks the gate and waits for its answers. An async context manager; safe for any number of tasks of one event loop.

    `bootstrap_servers` unset means what `GATE_BOOTSTRAP_SERVERS` says, else the broker of a running `gate dev`, else
    localhost:9092. The topics, and `connection` (security_protocol, sasl_mechanism, ssl_cafile, connect_timeout_s, …),
    are settings by their names (`gate config` lists them); where they are not given, `GATE_…` and `gate.toml` say.

    `on_timeout` says what an ask without an answer comes to, which is neither an approval nor a denial: `raise`
    AskTimeout, or assume `deny` or `approve`. An assumed decision has `assumed` set.
    """

    def __init__(
        self,
        bootstrap_servers: str | None = None,
        *,
        attempts_topic: str | None = None,
        reply_topic: str | None = None,
        on_timeout: OnTimeout = "raise",
        metrics: ClientMetrics | None = None,
        settings: Settings | None = None,
        **connection: Any,
    ) -> None:
        if on_timeout not in get_args(OnTimeout):
            raise ValueError(f"on_timeout is {on_timeout!r}; it is one of {', '.join(get_args(OnTimeout))}")
        if settings is None:
            given = {"bootstrap_servers": bootstrap_servers, "attempts_topic": attempts_topic, "replies_topic": reply_topic}
            settings = load({**given, **connection})
        elif connection:
            raise TypeError(f"{', '.join(connection)}: given besides `settings`, which has them")
        self._settings = settings
        self._bootstrap = bootstrap_servers or resolve_bootstrap(settings)[0]
        self._attempts_topic = attempts_topic or settings.attempts_topic
        self._reply_topic = reply_topic or settings.replies_topic
        self._on_timeout: OnTimeout = on_timeout
        self._metrics = metrics
        self._waiters: Waiters[asyncio.Future[Decision]] = Waiters(os.urandom(6).hex())
        self._sender: AttemptSender | None = None  # None: not open
        self._reader: ReplyReader | None = None

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        bootstrap: str,
        *,
        on_timeout: OnTimeout = "raise",
        reply_topic: str | None = None,
        metrics: ClientMetrics | None = None,
    ) -> Self:
        """Return a client for settings that are loaded already."""
        return cls(bootstrap, settings=settings, on_timeout=on_timeout, reply_topic=reply_topic, metrics=metrics)

    def __repr__(self) -> str:
        state = "closed" if self._sender is None else "ready" if self.ready else "not ready"
        return f"<GateClient {self._bootstrap}: {state}, {len(self._waiters)} waiting>"

    @property
    def ready(self) -> bool:
        """Whether asks can be sent and replies are read at this moment; false during an outage."""
        return self._sender is not None and self._sender.ready and self._reader is not None and self._reader.ready

    @property
    def waiting(self) -> int:
        """How many asks wait for their reply."""
        return len(self._waiters)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        await self.close()

    async def start(self) -> None:
        """Connect; when this returns, no reply can be missed.

        Raises KafkaUnavailable, naming the address, where no broker answers within `connect_timeout_s`, and ConfigError
        where a topic does not exist or we lack a right on it.
        """
        await wait_for_kafka(self._settings, self._bootstrap)
        options = client_options(self._settings, self._bootstrap)
        topics = {"attempts_topic": self._attempts_topic, "replies_topic": self._reply_topic}
        if problems := await missing_rights(self._settings.model_copy(update=topics), options, Role.CLIENT):
            raise ConfigError(problems)
        # Replies are read before anything can be sent.
        reader = ReplyReader(options, self._reply_topic, self._arrive)
        await reader.start()
        sender = AttemptSender(options, self._attempts_topic)
        try:
            await sender.start()
        except BaseException:
            await reader.stop()
            raise
        self._reader, self._sender = reader, sender

    async def close(self) -> None:
        """Fail every ask that waits with ClientClosed and disconnect. Idempotent; a closed client can be started again."""
        sender, self._sender = self._sender, None
        reader, self._reader = self._reader, None
        for waiter in self._waiters.close_all():
            if not waiter.done():
                waiter.set_exception(ClientClosed("the client was closed before the answer came; the decision is unknown"))
        if sender is not None:
            await sender.stop()
        if reader is not None:
            await reader.stop()

    async def ask(
        self, event: Mapping[str, Any], *, timeout_s: float = 5.0, attempt_id: str | None = None, traceparent: str | None = None
    ) -> Decision:
        """Return the decision on one attempt to register.

        `timeout_s` is how long this waits, and the patience that the gate is told. `attempt_id` stands for one submission
        of the form: asking again with the same id and event returns the same decision, so that is what to do after
        AskTimeout. Without one, each ask is an attempt of its own. It must be unguessable (a random UUID is).
        `traceparent` is the W3C trace context of the caller.

        Raises AskTimeout where no reply came in time (or assumes, see `on_timeout`), ClientClosed, KafkaUnavailable where
        the brokers refuse the attempt, and what `encode_attempt` raises for an event that cannot be sent.
        """
        if attempt_id is None:
            attempt_id = str(uuid.uuid4())
        correlation_id = self._waiters.name()
        message = encode_attempt(
            event,
            attempt_id=attempt_id,
            correlation_id=correlation_id,
            reply_topic=self._reply_topic,
            timeout_s=timeout_s,
            traceparent=traceparent,
        )
        started = time.perf_counter()
        outcome = "error"
        answers: list[asyncio.Future[Decision]] = []
        try:
            async with asyncio.timeout(timeout_s) as patience:
                decision = await self._answer(correlation_id, message, answers)
            outcome = decision.status.value
        except TimeoutError:
            if not patience.expired():
                raise
            in_time = _result(answers[-1]) if answers else None  # in the very turn of the loop in which the time was over
            outcome = "timeout" if in_time is None else in_time.status.value
            decision = self._assume(attempt_id, timeout_s) if in_time is None else in_time
        finally:
            if self._metrics is not None:
                self._metrics.ask_duration_seconds.labels(outcome=outcome).observe(time.perf_counter() - started)
        return decision

    async def _answer(self, correlation_id: bytes, message: Message, answers: list[asyncio.Future[Decision]]) -> Decision:
        """Send an attempt until it is acknowledged, and wait for the first reply; `answers` holds what is waited for.

        An attempt whose acknowledgement got lost is sent once more: both have one id, and therefore one decision. It may have
        been appended: where the brokers refuse it now, its answer is still waited for.
        """
        in_doubt = refused = False
        again: asyncio.Task[None] | None = None
        while True:
            sender = self._sender
            if sender is None:
                raise ClientClosed("the client is not open: use `async with GateClient(...)` or `await client.start()`")
            answer: asyncio.Future[Decision] = asyncio.get_running_loop().create_future()
            answers[:] = [answer]
            self._waiters.open(correlation_id, answer)
            try:
                if not in_doubt:
                    await _send(sender, message, answer)
                elif not refused:  # while it waits for a connection, the answer to what was sent before may come
                    again = asyncio.create_task(_send(sender, message, answer), name="send again")
                return await answer
            except NotTaken as failure:
                if failure.refused and not in_doubt:
                    raise KafkaUnavailable(f"{self._bootstrap} refuses attempts on {self._attempts_topic}: {failure}") from None
                refused = failure.refused
                in_doubt = True
            finally:
                self._waiters.close(correlation_id)
                _result(answer)  # where it failed and nobody waits for it, that is no news
                if again is not None:
                    again.cancel()

    def _assume(self, attempt_id: str, timeout_s: float) -> Decision:
        if self._metrics is not None:
            self._metrics.ask_timeouts_total.inc()
        if self._on_timeout == "raise":
            raise AskTimeout(attempt_id, timeout_s) from None
        status = Status.APPROVED if self._on_timeout == "approve" else Status.DENIED
        return Decision(attempt_id=attempt_id, status=status, assumed=True)

    def _arrive(self, record: Record) -> None:
        """Take one record of the reply topic. Caller: ReplyReader, in the event loop."""
        correlation_id = correlation_id_of(record)
        if correlation_id is None:
            return
        value = record.value or b""
        arrival, waiter = self._waiters.arrive(correlation_id, value)
        if waiter is not None and not waiter.done():
            _settle(waiter, value)
        elif waiter is not None or arrival is Arrival.LATE:  # it has given up, perhaps in this very turn of the loop
            if self._metrics is not None:
                self._metrics.late_replies_total.inc()
        elif arrival is not Arrival.FOREIGN:
            if self._metrics is not None:
                self._metrics.unmatched_replies_total.inc()
            if arrival is Arrival.CONTRADICTION:
                _log.error(
                    "two different replies to correlation id %s (%s-%d)", correlation_id.decode(), record.topic, record.partition
                )


def read_reply(value: bytes) -> Decision:
    """Return the decision in the value of a reply; raise GateError where it is none."""
    try:
        return Decision.from_json(orjson.loads(value))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise GateError(f"the reply cannot be read ({type(error).__name__}): it is not one of a gate of our version") from None


def _settle(waiter: asyncio.Future[Decision], value: bytes) -> None:
    try:
        waiter.set_result(read_reply(value))
    except GateError as error:
        waiter.set_exception(error)


def _result(answer: asyncio.Future[Decision]) -> Decision | None:
    """Return the decision that has come, if one has."""
    return answer.result() if answer.done() and not answer.cancelled() and answer.exception() is None else None


async def _send(sender: AttemptSender, message: Message, answer: asyncio.Future[Decision]) -> None:
    """Hand an attempt over; where it is not taken, now or later, its answer fails."""
    try:
        sent = await sender.send(message)
    except NotTaken as failure:
        if not answer.done():
            answer.set_exception(failure)
    else:
        sent.add_done_callback(partial(_acknowledged, answer))


def _acknowledged(answer: asyncio.Future[Decision], sent: asyncio.Future[Any]) -> None:
    """Wake an ask whose attempt was not acknowledged."""
    error = asyncio.CancelledError() if sent.cancelled() else sent.exception()
    if error is not None and not answer.done():
        answer.set_exception(NotTaken(error))
