"""One action of a chain: its manifest entry together with the code that it runs."""

from __future__ import annotations

import json
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol
from urllib.parse import quote, quote_plus

from gate.chain.api import Api
from gate.model.event import DATABASE, Connection, Event
from gate.model.readonly import EMPTY, NO_SECRETS, ReadOnlyDict, Secrets

DEFAULT_TIMEOUT_S: Final = 20.0
"""Limit of a chain whose manifest names none (AUTH0.md 1.4)."""

DEFAULT_BACKOFF_S: Final = 0.1

MIN_SECRET_CHARACTERS: Final = 6
"""A shorter value (`true`, `eu`, `1`) hides nothing, and blanking it out would spoil other words."""

LATE_CALL_LOG_INTERVAL_S: Final = 60.0

logger = logging.getLogger(__name__)


class Code(Protocol):
    """The code of an action, in whatever language."""

    waits: bool
    """Whether it may suspend. One that never does is run by hand, without a task (DESIGN.md section 5)."""

    ends_when_cancelled: bool
    """Whether cancelling `run` ends it; a thread goes on, so what runs in one is never tried again after a time-out."""

    def run_by_hand(self, event: Event, api: Api) -> None:
        """Run to the end at once. Only where `waits` is false."""

    def run(self, event: Event, api: Api) -> Awaitable[None]:
        """Run as an awaitable; cancelling it ends the action or abandons it."""

    def release(self) -> None:
        """Let go of what loading it took: its chain is used no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class When:
    """For which events an action runs: every condition that is given must match."""

    strategies: frozenset[str] | None = None
    connections: frozenset[str] | None = None  # ids or names
    clients: frozenset[str] | None = None  # ids or names
    tenants: frozenset[str] | None = None
    countries: frozenset[str] | None = None  # ISO 3166-1 alpha-2, upper case

    def matches(self, event: Event) -> bool:
        """Tell whether the action runs for this event."""
        connection = event.connection

        if self.strategies is not None and not self._has_strategy(connection):
            return False

        if self.connections is not None and self.connections.isdisjoint((connection.id, connection.name)):
            return False

        if self.clients is not None:
            client = event.client

            if client is None or self.clients.isdisjoint((client.client_id, client.name)):
                return False

        if self.tenants is not None and event.tenant.id not in self.tenants:
            return False

        return self.countries is None or (event.request.geoip.country_code or "").upper() in self.countries

    def _has_strategy(self, connection: Connection) -> bool:
        """Unknown strategies count as database (DESIGN.md section 2), so what runs for databases runs for them, too."""
        strategies = self.strategies or frozenset()
        return connection.strategy in strategies or (not connection.passwordless and DATABASE in strategies)


@dataclass(slots=True, kw_only=True, eq=False)
class Action:
    """One action of a chain."""

    name: str
    code: Code
    version: str = "sha256:"  # hash of its file
    file: Path | None = None
    timeout_s: float = float("inf")  # of each try
    retries: int = 0  # after a failure or a time-out of its own
    backoff_s: float = DEFAULT_BACKOFF_S  # before the first retry; doubles
    on_error: Literal["deny", "skip"] = "deny"
    when: When | None = None
    secrets: Secrets = NO_SECRETS
    config: ReadOnlyDict = EMPTY
    waits: bool = field(init=False)  # the code's; these two are looked up here on the hot path
    run_by_hand: Callable[[Event, Api], None] = field(init=False, repr=False)
    plain: bool = field(init=False)  # no secrets, no config: all plain actions of a chain may share one event
    _secret_values: re.Pattern[str] | None = field(init=False, repr=False)
    _late_call_logged_s: float = field(default=float("-inf"), init=False, repr=False)

    def __post_init__(self) -> None:
        self.waits = self.code.waits or self.retries > 0  # between two tries it does
        self.run_by_hand = self.code.run_by_hand
        self.plain = not self.secrets and not self.config
        shown = {form for value in self.secrets.values() for form in _forms(value)}
        longest_first = sorted((form for form in shown if len(form) >= MIN_SECRET_CHARACTERS), key=len, reverse=True)
        self._secret_values = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def redact(self, text: str) -> str:
        """Return the text with the values of this action's secrets blanked out: they never leave the worker."""
        return text if self._secret_values is None else self._secret_values.sub("[secret]", text)

    def warn_late_call(self, call: str) -> None:
        """Log a call that came after the action had returned, at most once a minute."""
        now = time.monotonic()

        if now - self._late_call_logged_s >= LATE_CALL_LOG_INTERVAL_S:
            self._late_call_logged_s = now
            logger.warning("action %s called api.%s after it had returned; the call is ignored", self.name, call)


def _forms(secret: str) -> Iterator[str]:
    """Yield the forms in which a secret turns up in what an action prints: as it is, quoted by repr or JSON, in a URL."""
    for text in (secret, *secret.splitlines()):  # a key of several lines is printed line by line
        yield from (text, repr(text)[1:-1], json.dumps(text)[1:-1], json.dumps(text, ensure_ascii=False)[1:-1])
        yield from (quote(text), quote(text, safe=""), quote_plus(text))
