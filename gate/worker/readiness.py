"""Says whether attempts are being answered, and if not, why: what /healthz and /readyz show."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gate import log as logs
from gate.chain.threads import MAX_LOST, DaemonThreads
from gate.config import Settings
from gate.worker.intake import Intake
from gate.worker.partitions import Stage
from gate.worker.progress import Answers
from gate.worker.recorder import Recorder
from gate.worker.scribe import LedgerScribe
from gate.worker.sender import ReplySender

_LOST_TASKS_MAX: Final = 10_000  # of actions that swallow their cancellation; some 100 MB
_NO_ROOM_LOOKS: Final = 10  # so many looks of the housekeeping without an answer: full is not just busy

log = logs.get(__name__)


@dataclass(frozen=True, slots=True)
class Status:
    """What /healthz and /readyz say."""

    live: bool
    ready: bool
    reasons: tuple[str, ...]  # why it is not ready


class Readiness:
    """Looks at everything that may be in the way of an answer."""

    def __init__(
        self, settings: Settings, *, scribe: LedgerScribe, sender: ReplySender, recorder: Recorder, threads: DaemonThreads
    ) -> None:
        self._settings = settings
        self._scribe = scribe
        self._sender = sender
        self._recorder = recorder
        self._threads = threads
        self._answers = Answers()
        self._room_taken = Answers()  # while all slots are taken
        self._lost_tasks = 0  # of actions
        self._stuck = False  # answers are owed, and none goes out although nothing is known to be in the way

    def look(self, intake: Intake, in_flight: int, *, lost_tasks: int) -> None:
        """Notice when what is decided is not answered any more, and when attempts that do not end take up all the room."""
        self._lost_tasks = lost_tasks
        flights = [flight for partition in intake.partitions.values() for flight in partition.flying.values()]
        owed = sum(flight.stage in (Stage.APPEND, Stage.REPLY) for flight in flights)
        owed -= self._sender.burying + self._sender.looking
        answered = self._recorder.metrics.decision_duration_seconds.count
        self._room_taken.look(in_flight if in_flight >= self._settings.max_in_flight else 0, answered)
        known = intake.silent or self._scribe.trouble or self._sender.trouble
        stuck = self._answers.look(0 if known else owed, answered)
        if stuck and not self._stuck:
            log.critical("answers_stopped", owed=owed, note="only another process may help: /healthz says so")
        self._stuck = stuck

    def status(self, intake: Intake | None) -> Status:
        """Return how it is now; without an intake the worker has not begun."""
        if intake is None:
            return Status(live=True, ready=False, reasons=("starting",))
        sender, most = self._sender, self._settings.max_in_flight
        reasons = list(intake.reasons())
        if self._scribe.trouble is not None:
            reasons.append(self._scribe.trouble)
        if sender.trouble is not None:
            reasons.append(f"replies are not acknowledged: {sender.trouble}")
        if sender.burying >= most:
            reasons.append(f"{sender.burying} dead letters wait to be written to {self._settings.dlq_topic}")
        if self._room_taken.looks >= _NO_ROOM_LOOKS:
            reasons.append(f"all of GATE_MAX_IN_FLIGHT={most} attempts are under way, and none has been answered for a while")
        if self._stuck:
            reasons.append("what is decided is not answered, and nothing is known to be in the way")
        lost = self._threads.lost >= MAX_LOST or self._lost_tasks >= _LOST_TASKS_MAX
        if lost:  # nobody but the end of the process ends them
            which = f"{self._threads.lost} threads and {self._lost_tasks} tasks of actions"
            reasons.append(f"{which} were cut and do not end; mend the actions and start again")
        return Status(live=not (self._stuck or lost or intake.hopeless), ready=not reasons, reasons=tuple(reasons))
