"""Runs cases through a chain, one after the other, as attempts come to one worker."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gate.chain.runner import Chain
from gate.chain.texts import FixedTexts
from gate.chain.trial import TIMEOUT_MS, run_trial
from gate.errors import CasesError, InvalidEvent
from gate.model.event import Event
from gate.testing.cases import Case
from gate.testing.difference import Difference


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of a case."""

    case: Case
    reply: dict[str, Any]  # with `trace`
    differences: tuple[Difference, ...]
    took_s: float

    @property
    def passed(self) -> bool:
        """Whether the reply is as expected; so it is where nothing is."""
        return not self.differences

    def to_json(self) -> dict[str, Any]:
        """Return the case's entry in the report of `gate test --json`."""
        return {
            "name": self.case.name,
            "file": str(self.case.file),
            "passed": self.passed,
            "differences": [difference.to_json() for difference in self.differences],
            "reply": self.reply,
        }


async def run_case(chain: Chain, case: Case, *, texts: FixedTexts | None = None) -> Verdict:
    """Run a chain on one case. Start the chain before: what its modules and its cache hold then lasts from case to case."""
    begun_s = time.perf_counter()
    reply = await run_trial(
        chain,
        case.event,
        attempt_id=case.stable_attempt_id,
        timeout_ms=TIMEOUT_MS if case.timeout_ms is None else case.timeout_ms,
        deny_invalid=True,
        texts=texts,
    )
    took_s = time.perf_counter() - begun_s
    return Verdict(case=case, reply=reply, differences=tuple(case.differences(reply)), took_s=took_s)


def refuse_unreadable(cases: Sequence[Case]) -> None:
    """Raise CasesError where an event is none and nobody expects that."""
    problems: list[str] = []

    for case in cases:
        if case.expectation is None:
            try:
                Event.from_document(case.event)
            except InvalidEvent as error:
                problems.append(f"{case.event_file or case.file}: {error}")

    if problems:
        raise CasesError(list(dict.fromkeys(problems)))
