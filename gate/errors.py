"""Every error the gate raises on purpose.

GateError
├── ConfigError              settings or chain are wrong; all problems in one error        exit 2
│   └── ChainError           a chain manifest or an action cannot be loaded
├── InputError               a file named on the command line cannot be read               exit 2
│   └── CasesError           case files of `gate test` are wrong; all problems in one error
├── InvalidEvent             the value of an attempt is not a readable event               exit 2
├── KafkaUnavailable         no broker answers at the address                              exit 3
│   └── EmbeddedBrokerError  the broker we start ourselves does not come up
├── WorkerLost               a task of the worker ended although nobody asked for it       exit 1
├── ClientClosed             the client is not open, or was closed while an ask waited
└── AskTimeout               no reply came in time; the decision is unknown, not denied    exit 4
"""

from __future__ import annotations

from collections.abc import Sequence


class GateError(Exception):
    """Something the user can mend; the message says what, where, and how."""

    exit_code = 1


class ConfigError(GateError):
    """The configuration has problems; `problems` holds one sentence for each."""

    exit_code = 2

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class ChainError(ConfigError):
    """The chain cannot be loaded; each problem names file and line, and the mend."""


class InputError(GateError):
    """A file given by the user cannot be read or does not hold what it should."""

    exit_code = 2


class CasesError(InputError):
    """Case files hold what cannot be; `problems` holds one sentence for each, with its file and place, and the mend."""

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class InvalidEvent(GateError):
    """The value of an attempt cannot be read as an event.

    `path` is the JSON path of the first fault (`$` for the whole value), `problem` says what is wrong there. Neither
    holds anything of the value itself, so both may be logged and sent.
    """

    def __init__(self, path: str, problem: str) -> None:
        self.path = path
        self.problem = problem
        super().__init__(f"{path}: {problem}")


class KafkaUnavailable(GateError):
    """No broker could be reached."""

    exit_code = 3


class EmbeddedBrokerError(KafkaUnavailable):
    """The embedded broker could not be started; the message says what to install or to set."""


class WorkerLost(GateError):
    """The worker cannot go on, and its process ends: whoever supervises it starts it again, and nothing is lost."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the worker cannot go on: {what} although nobody asked for it; start it again, nothing is lost")


class ClientClosed(GateError):
    """The client is not open, or was closed while an ask waited; what is decided on that attempt is unknown."""


class AskTimeout(GateError):
    """No reply came within the asker's patience: the decision is unknown. Ask again with the same attempt id."""

    exit_code = 4

    def __init__(self, attempt_id: str, timeout_s: float) -> None:
        self.attempt_id = attempt_id
        self.timeout_s = timeout_s
        super().__init__(
            f"no answer for attempt {attempt_id} within {timeout_s:g} s; "
            "the decision is unknown, ask again with the same attempt id"
        )
