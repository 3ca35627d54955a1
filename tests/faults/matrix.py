"""The faults by name, and how one of them is run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gate.kafka.embedded import EmbeddedKafka
from tests.conftest import fresh

from .scene import Report, Scene

Inject = Callable[[Scene], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One row of the matrix: what is done, and on what."""

    name: str
    row: str  # of KAFKA.md section 7
    inject: Inject
    short: bool  # whether it belongs to the short form in `make test`
    kafka: Callable[[], AbstractContextManager[Any]] | None  # what it runs on; None: the broker that all others share
    partitions: int
    replication: int
    slack_ms: int  # by how much a decision may be late: what the fault itself takes
    settings: Mapping[str, Any]


FAULTS: dict[str, Fault] = {}
"""All faults in the order in which they run."""


def fault(
    name: str,
    *,
    row: str,
    short: bool = False,
    kafka: Callable[[], AbstractContextManager[Any]] | None = None,
    partitions: int = 4,
    replication: int = 1,
    slack_ms: int = 1000,
    **settings: Any,
) -> Callable[[Inject], Inject]:
    """Enter what injects a fault into the matrix; the other options are settings of worker and client."""

    def enter(inject: Inject) -> Inject:
        assert name not in FAULTS, name
        FAULTS[name] = Fault(
            name=name,
            row=row,
            inject=inject,
            short=short,
            kafka=kafka,
            partitions=partitions,
            replication=replication,
            slack_ms=slack_ms,
            settings=settings,
        )
        return inject

    return enter


async def run(fault: Fault, kafka: Any, folder: Path, *, scale: float = 1.0) -> Report:
    """Inject one fault and report; what goes wrong is in the report, too."""
    began = time.monotonic()
    await asyncio.to_thread(folder.mkdir, parents=True, exist_ok=True)
    scene = Scene(fresh(kafka.bootstrap, **fault.settings), folder, kafka, scale=scale, slack_ms=fault.slack_ms)
    try:
        async with scene:
            await scene.make_topics(partitions=fault.partitions, replication=fault.replication)
            await fault.inject(scene)
            return await scene.report(fault.name, fault.row, began)
    except Exception as error:  # noqa: BLE001 - the top of a run: the other faults are still to be tried
        return Report(
            fault=fault.name,
            row=fault.row,
            seconds=time.monotonic() - began,
            complaints=tuple(_said(error)),
            facts=scene.facts,
        )


def _said(error: BaseException) -> Iterator[str]:
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _said(part)
    else:
        yield f"{type(error).__name__}: {error}".rstrip(": ")


def own_broker(**options: Any) -> Callable[[], AbstractContextManager[Any]]:
    """Return what makes a broker for one fault alone."""
    return lambda: EmbeddedKafka(**options)
