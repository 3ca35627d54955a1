"""What the event, the api and the chain cost for one attempt, without Kafka, to be seen beside what a whole attempt costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, Final

import orjson

from gate.chain.loader import load_chain
from gate.chain.resources import Resources
from gate.chain.runner import Chain
from gate.model.decision import Outcome
from gate.model.event import Event
from gate.model.wire import read_document
from gate.tools.load import load_events

CHAIN: Final = Path(__file__).parent / "actions"
ATTEMPTS: Final = 2000
MAX_BYTES: Final = 256 * 1024

EVERYTHING: Final = """
async def on_execute_pre_user_registration(event, api):
    api.user.set_user_metadata("plan", "free").user.set_app_metadata("signup", {"country": event.request.geoip.country_code})
    api.cache.set("k", "v")
    api.cache.get("k")
    print("seen", event.attempt_id)
"""
"""An action that uses nearly everything there is."""


def run_machinery(rounds: int, folder: Path) -> dict[str, float]:
    """Return CPU µs of each part, medians of rounds."""
    return asyncio.run(_run(rounds, folder))


async def _run(rounds: int, folder: Path) -> dict[str, float]:
    events = load_events(0.0, "bench")  # nobody is denied: every action runs
    values = [orjson.dumps(next(events)) for _ in range(ATTEMPTS)]
    (folder / "everything.py").write_text(EVERYTHING)
    async with Resources() as resources:
        four = await _started(CHAIN, resources)
        one = await _started(folder / "everything.py", resources)
        documents = [read_document(value, max_bytes=MAX_BYTES)[0] for value in values]
        parsed = [Event.from_document(document) for document in documents]
        parts: dict[str, tuple[Callable[[Any], object], Sequence[Any]]] = {
            "parse JSON": (orjson.loads, values),
            "read the event": (Event.from_document, documents),
            "run four actions": (lambda event: _approved(four, event), parsed),
            "run one that uses all of the api": (lambda event: _approved(one, event), parsed),
        }
        return {name: median(_cpu_us(call, items) for _ in range(rounds)) for name, (call, items) in parts.items()}


async def _started(path: Path, resources: Resources) -> Chain:
    chain = load_chain(path, environ={})
    await chain.start(resources)
    return chain


def _approved(chain: Chain, event: Event) -> None:
    outcome = chain.run(event, attempt_id="bench", patience_s=30.0)
    assert isinstance(outcome, Outcome)
    assert outcome.denial is None


def _cpu_us(call: Callable[[Any], object], items: Sequence[Any]) -> float:
    began = time.process_time()
    for item in items:
        call(item)
    return (time.process_time() - began) / len(items) * 1e6
