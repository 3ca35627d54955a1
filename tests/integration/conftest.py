"""What tests of a worker on real Kafka share: somebody who asks, and workers as processes of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from gate.config import Settings

from .peers import Asker, Start, WorkerProcess


@pytest.fixture
async def asker(topics: Settings) -> AsyncIterator[Asker]:
    """Somebody who asks on fresh topics and keeps every reply."""
    async with Asker(topics) as made:
        yield made


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """`start(settings)`: a worker process, killed at the end of the test if it still runs."""
    started: list[WorkerProcess] = []

    def worker(settings: Settings, **options: Any) -> WorkerProcess:
        started.append(WorkerProcess(settings, tmp_path, **options))
        return started[-1]

    yield worker
    for process in started:
        process.close()
