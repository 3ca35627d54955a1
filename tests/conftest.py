"""What all tests share: the one broker of the run, fresh topics, and waiting with a deadline."""

from __future__ import annotations

import asyncio
import inspect
import os
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
from hypothesis import settings as hypothesis_settings

from gate.config import Settings
from gate.kafka.embedded import EmbeddedKafka
from gate.kafka.topics import create_topics
from tests.faults.grants import PROPERTIES

T = TypeVar("T")

# The same examples in every run, so that a red run can be repeated; `make faults` looks further with the other one.
hypothesis_settings.register_profile(
    "repeatable", derandomize=True, deadline=None, database=None, max_examples=60, stateful_step_count=40
)
hypothesis_settings.register_profile("faults", deadline=None, max_examples=1000, print_blob=True)
hypothesis_settings.load_profile("repeatable")


class Eventually(Protocol):
    """What the fixture `eventually` returns."""

    async def __call__(self, check: Callable[[], T | Awaitable[T]], *, within_s: float = 10.0) -> T: ...


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("GATE_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def kafka() -> Iterator[EmbeddedKafka]:
    """The real broker of this test run. Tests that stop or pause it start one of their own instead."""
    with EmbeddedKafka(properties=PROPERTIES) as broker:
        yield broker


def fresh(bootstrap: str, **options: Any) -> Settings:
    """Return settings that point at a broker, with names of topics and group that nobody has used."""
    unique = uuid.uuid4().hex[:8]
    names = {
        "attempts_topic": f"{unique}.attempts",
        "decisions_topic": f"{unique}.decisions",
        "replies_topic": f"{unique}.replies",
        "dlq_topic": f"{unique}.attempts.dlq",
        "reply_topics": (f"{unique}.replies*",),
        "group_id": f"{unique}.gate",
    }
    return Settings(bootstrap_servers=bootstrap, http_port=0, **{**names, **options})


@pytest.fixture(scope="session")
def fresh_settings(kafka: EmbeddedKafka) -> Callable[..., Settings]:
    """`fresh_settings(**options)`: settings that point at the broker, with names of topics and group that nobody has used."""
    return partial(fresh, kafka.bootstrap)


@pytest.fixture
def settings(fresh_settings: Callable[..., Settings]) -> Settings:
    """Settings that point at the broker, with names of topics and group that no other test uses. No topic exists yet."""
    return fresh_settings()


@pytest.fixture
async def topics(settings: Settings, request: pytest.FixtureRequest) -> Settings:
    """The same settings with their four topics made, 4 partitions each.

    `@pytest.mark.parametrize("topics", [1], indirect=True)` for another number.
    """
    assert settings.bootstrap_servers
    await create_topics(settings, settings.bootstrap_servers, partitions=getattr(request, "param", 4), replication=1)
    return settings


async def _eventually(check: Callable[[], Any], *, within_s: float = 10.0) -> Any:
    deadline = time.monotonic() + within_s
    while True:
        try:
            result = check()
            if inspect.isawaitable(result):
                result = await result
            if result:
                return result
            problem = f"it returned {result!r}"
        except AssertionError as error:
            problem = str(error)
            result = None
        if time.monotonic() > deadline:
            pytest.fail(f"not within {within_s:g} s: {inspect.getsource(check).strip()}\n{problem}")
        await asyncio.sleep(0.01)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except ProcessLookupError:
        return False
    except FileNotFoundError:  # gone between the two lines, or a system without /proc
        return not Path("/proc/self").exists()
    return state != "Z"  # a zombie is dead, but nobody has asked how it ended


@pytest.fixture
def alive() -> Callable[[int], bool]:
    """`alive(pid)`: whether this process is running."""
    return _alive


@pytest.fixture
def eventually() -> Eventually:
    """`await eventually(check, within_s=10)`: call `check`, sync or async, until it returns something true; return that.

    A failed assertion inside counts as "not yet". A check that only asserts must return True.
    """
    return _eventually
