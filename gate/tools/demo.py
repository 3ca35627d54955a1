"""The cases of `gate demo`: who asks to register, and what the sample actions make of it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, Final

from gate.client import GateClient
from gate.model.decision import Cause, Decision
from gate.tools.ask import DENVER, LISBON, MERIDA, NAIROBI, OSAKA, Place, build_event
from gate.tools.user_service import UserService

BAD_FINGERPRINT: Final = "t13d1812h2_5b1f0c9ad7e2_3c8e64f01b9a"
"""One of those on the list in `actions/chain.toml`."""

LOAD_RATE: Final = 200.0
LOAD_DURATION_S: Final = 10.0
ASK_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One person who wants to register."""

    email: str
    place: Place
    story: str  # what is special about this one
    cause: Cause | None  # of the denial that the sample actions come to; None: approved
    changes: dict[str, dict[str, Any]] = field(default_factory=dict)  # top-level keys of the event that are replaced or extended
    service_up: bool = False

    def event(self) -> dict[str, Any]:
        """Return what the signup service sends."""
        event = build_event(self.email, place=self.place)
        for name, members in self.changes.items():
            event[name] = {**event[name], **members}
        return event


PARTNER_PORTAL: Final = {"client": {"client_id": "web-3Kd07", "name": "partner-portal"}}
"""The application for whose sign-ups `actions/chain.toml` asks the user service."""

CASES: Final = (
    Case(email="ana.lopes@mail.example", place=LISBON, story="a customer", cause=None),
    Case(email="bob.ford@mail.example", place=DENVER, story="a customer", cause=Cause.ACCESS_DENIED),
    Case(email="carmen.diaz@mail.example", place=MERIDA, story="a customer who reads Spanish", cause=Cause.ACCESS_DENIED),
    Case(
        email="daichi.mori@partner.example",
        place=OSAKA,
        story="a partner, while the user service is down",
        cause=Cause.VALIDATION_ERROR,
        changes=PARTNER_PORTAL,
    ),
    Case(
        email="eve.black@mail.example",
        place=NAIROBI,
        story="with the TLS fingerprint of a known bot",
        cause=Cause.ACCESS_DENIED,
        changes={"security_context": {"ja4": BAD_FINGERPRINT}},
    ),
    Case(
        email="daichi.mori@partner.example",
        place=OSAKA,
        story="the partner again, now that it is up",
        cause=None,
        changes=PARTNER_PORTAL,
        service_up=True,
    ),
    Case(
        email="farah.noor@mail.example",
        place=NAIROBI,
        story="without a password, by e-mailed code",
        cause=None,
        changes={"connection": {"id": "con_e2Mail", "name": "email", "strategy": "email"}},
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What became of a case."""

    case: Case
    decision: Decision
    took_s: float

    @property
    def as_expected(self) -> bool:
        """Whether the sample actions did what they are there for."""
        denial = self.decision.denial
        return self.case.cause == (None if denial is None else denial.cause)


async def ask_cases(client: GateClient, service: UserService) -> AsyncIterator[Answer]:
    """Ask for one case after the other."""
    for case in CASES:
        async with AsyncExitStack() as stack:
            if case.service_up:
                await stack.enter_async_context(service)
            started = time.perf_counter()
            decision = await client.ask(case.event(), timeout_s=ASK_TIMEOUT_S)
            yield Answer(case=case, decision=decision, took_s=time.perf_counter() - started)
