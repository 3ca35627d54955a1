"""Log lines: one event name and key=value each, to stderr, as JSON or for a console.

Until `configure()` is called, lines go to the standard library's logging, so that a program that only uses the client
decides for itself. Nothing that names a person belongs in a line (DESIGN.md section 1: the ledger has the decisions).
"""

from __future__ import annotations

import logging
import os
import re
import sys
import time
from typing import Any, Final, Literal, cast

import orjson
import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

Logger = FilteringBoundLogger

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_PASSING = ("GroupCoordinatorNotAvailableError", "Heartbeat failed")
"""Library errors that heal by themselves within a second: a new cluster makes its offsets topic, a group rebalances."""

_SELDOM_S = 30.0
"""How often a library may say the same: aiokafka writes a hundred lines a second while no broker answers."""


class _Seldom(logging.Filter):
    """Lets one line through for each message of a library, whatever is filled into it, then none for a while."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, object], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether to write it."""
        key = (record.name, record.msg)
        now = time.monotonic()
        if now - self._said.get(key, -_SELDOM_S) < _SELDOM_S:
            return False
        if len(self._said) >= 1000:  # somebody formats before logging: forget rather than grow
            self._said.clear()
        self._said[key] = now
        return True


def get(name: str) -> Logger:
    """Return the logger of a module. Safe to call at import, before `configure()`."""
    return cast(Logger, structlog.get_logger(name, logger_name=name))


def configure(
    level: Literal["debug", "info", "warning", "error"] = "info", fmt: Literal["auto", "json", "console"] = "auto"
) -> None:
    """Send all lines from `level` on to stderr, also those of libraries (from warning on).

    `auto` is the console format on a terminal, JSON lines elsewhere. Call it once, at the start of a command.
    """
    terminal = sys.stderr.isatty()
    console = fmt == "console" or (fmt == "auto" and terminal)
    stamp = (
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False)
        if console and terminal
        else structlog.processors.TimeStamper(fmt="iso")
    )
    shared: list[Processor] = [_level, stamp]
    colors = terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    rendering = _console(colors=colors) if console else _json()

    structlog.configure(
        processors=[*shared, *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        # Bytes for JSON: orjson makes bytes and stderr takes them, so nothing is encoded twice on the way.
        logger_factory=structlog.PrintLoggerFactory(sys.stderr) if console else structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_logger_name, *shared],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *(rendering if console else [*rendering, _text]),
            ],
        )
    )
    handler.addFilter(lambda record: not any(passing in record.getMessage() for passing in _PASSING))
    handler.addFilter(_Seldom())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(max(logging.WARNING, _LEVELS[level]))
    logging.captureWarnings(capture=True)


_CONTROL: Final = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069]")
"""What moves a terminal's cursor, changes its state or turns text around."""


def harmless(text: str, *, keep: str = "") -> str:
    """Return text that came from outside with its control characters written out, so that a terminal only shows it."""
    return _CONTROL.sub(lambda found: found[0] if found[0] in keep else found[0].encode("unicode_escape").decode(), text)


def _harmless(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Write out the control characters of what a line says; a JSON line has them escaped anyway."""
    return {name: harmless(value, keep="\n\t") if isinstance(value, str) else value for name, value in event.items()}


def _json() -> list[Processor]:
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(serializer=_dumps)]


def _console(*, colors: bool) -> list[Processor]:
    return [
        _harmless,
        structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=structlog.dev.plain_traceback, pad_event_to=0),
    ]


def _dumps(event: EventDict, **_: Any) -> bytes:
    return orjson.dumps(event, default=repr, option=orjson.OPT_NON_STR_KEYS)


def _text(_logger: WrappedLogger, _method: str, line: bytes) -> str:
    return line.decode()


def _level(_logger: WrappedLogger, method: str, event: EventDict) -> EventDict:
    """Add the level, in an order that makes every line start alike; the time is filled in by the next processor."""
    return {"timestamp": None, "level": "error" if method == "exception" else method, "event": None, **event}


def _logger_name(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Name the library's logger as ours are named."""
    record: logging.LogRecord = event["_record"]
    event["logger_name"] = record.name
    return event


if not structlog.is_configured():
    # A library must not print: the standard library's logging is where a host program expects the lines of others.
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.processors.format_exc_info,
            structlog.processors.KeyValueRenderer(key_order=["event"]),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
