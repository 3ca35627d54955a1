"""Reads case files: events to run a chain on, each with what is expected of the reply.

A file is an event, a case (`event`, `with`, `expect`), or a table of cases that share an event (`event`, `cases`).
actions/README.md shows them.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import orjson

from gate.chain.trial import MAX_TIMEOUT_MS
from gate.errors import CasesError, InputError
from gate.testing.difference import ABSENT, Absent, Difference
from gate.testing.expectation import Expectation, unknown

__all__ = ["ABSENT", "Absent", "Case", "Difference", "Expectation", "change", "load_cases", "parse_cases"]

_CASE_KEYS: Final = ("event", "with", "expect", "attempt_id", "timeout_ms")
_TABLE_KEYS: Final = ("event", "with", "timeout_ms", "cases")
_ROW_KEYS: Final = ("name", *_CASE_KEYS)
_TELLING: Final = frozenset({"event", "cases", "with", "expect"})
"""A file with one of these at its top is a case or a table; one without is an event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """An event to run a chain on, and what is expected of the reply."""

    name: str  # the file's path without `.json`; of a row of a table, ` › ` and its own name behind that
    file: Path
    event: Mapping[str, Any]
    expectation: Expectation | None = None  # None: it only runs
    attempt_id: str | None = None  # None: made from the name
    timeout_ms: int | None = None  # the asker's whole patience; None: the default
    event_file: Path | None = None  # where the event stands, if not in `file`

    def __str__(self) -> str:
        return self.name

    @property
    def stable_attempt_id(self) -> str:
        """The attempt id that the case names, else one that its name always gives; ASCII, as headers of HTTP need it."""
        if self.attempt_id is not None:
            return self.attempt_id

        words = re.sub(r"[^A-Za-z0-9._-]+", "-", self.name)[:80].strip("-")
        return f"{words}-{hashlib.sha256(self.name.encode()).hexdigest()[:8]}"

    def differences(self, reply: Mapping[str, Any]) -> list[Difference]:
        """Compare a reply document that has a `trace` with what is expected."""
        return [] if self.expectation is None else self.expectation.differences(reply)


def load_cases(path: str | Path, *, actions: Collection[str] | None = None) -> list[Case]:
    """Read the cases of a file, or of all `*.json` below a folder, sorted; raises CasesError with every mistake in them.

    Files that others name as their `event` are no cases themselves. `actions` are the names in the chain: a case that
    expects something of another one is a mistake. Raises InputError where there is no case at all.
    """
    path = Path(path)

    if not path.is_dir():
        return parse_cases(_read(path), path, name=path.name.removesuffix(".json"), actions=actions)

    found: list[Case] = []
    problems: list[str] = []

    for file in sorted(path.rglob("*.json")):
        if any(part.startswith(".") or part == "node_modules" for part in file.relative_to(path).parts):
            continue

        name = file.relative_to(path).as_posix().removesuffix(".json")
        try:
            found += parse_cases(_read(file), file, name=name, actions=actions)
        except CasesError as error:
            problems += error.problems

    if problems:
        raise CasesError(list(dict.fromkeys(problems)))  # an event that two cases name has its problem once

    shared = {case.event_file.resolve() for case in found if case.event_file is not None}
    cases = [case for case in found if case.file.resolve() not in shared]

    if not cases:
        raise InputError(f"{path}: no case in this folder; put events or cases there, as files whose names end in .json")

    return cases


def parse_cases(content: bytes, file: Path, *, name: str, actions: Collection[str] | None = None) -> list[Case]:
    """Read the content of a case file; raises CasesError with every mistake in it. `name` is that of the case or table."""
    document = _parse(content, file)

    if _TELLING.isdisjoint(document):
        return [Case(name=name, file=file, event=document)]

    reader = _Reader(file, actions)
    cases = list(reader.table(document, name) if "cases" in document else reader.case(document, name))

    if reader.problems:
        raise CasesError(reader.problems)

    return cases


def change(document: dict[str, Any], path: str, value: Any) -> None:
    """Set what stands at a path such as `request.geoip.countryCode`; None is null. Raises ValueError with what is wrong.

    Objects on the way that are not there, or null, are made.
    """
    *parents, last = path.split(".")

    if not all((*parents, last)):
        raise ValueError("not a path; write keys with a dot between them, as in request.language")

    for name in parents:
        if document.get(name) is None:
            document[name] = {}

        if not isinstance(document[name], dict):
            raise ValueError(f"{name} is not an object")  # noqa: TRY004 - the caller asked for what is wrong with a text

        document = document[name]

    document[last] = value


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise CasesError([f"{path} cannot be read: {error.strerror}"]) from None


def _parse(content: bytes, file: Path) -> dict[str, Any]:
    try:
        document = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise CasesError([f"{file}:{error.lineno}:{error.colno}: not JSON: {error.msg}"]) from None

    if not isinstance(document, dict):
        raise CasesError([f"{file}: not a JSON object; an event starts with {{"])

    return document


class _Reader:
    """Reads the cases of one file; `problems` has what it found."""

    def __init__(self, file: Path, actions: Collection[str] | None) -> None:
        self.problems: list[str] = []
        self._file = file
        self._actions = actions

    def case(self, document: Mapping[str, Any], name: str) -> Iterator[Case]:
        self._known_keys(document, _CASE_KEYS, "$")
        yield self._case(document, {}, name, "$")

    def table(self, document: Mapping[str, Any], name: str) -> Iterator[Case]:
        self._known_keys(document, _TABLE_KEYS, "$")
        rows = document["cases"]
        names: set[str] = set()

        if not isinstance(rows, list) or not rows:
            self._problem("$.cases", 'must be a list of cases, each with a name, as in [{"name": "…", "expect": {…}}]')
            return

        for index, row in enumerate(rows):
            place = f"$.cases[{index}]"

            if not isinstance(row, dict):
                self._problem(place, "must be an object with a name")
                continue

            self._known_keys(row, _ROW_KEYS, place)
            row_name = row.get("name")

            if not isinstance(row_name, str) or not row_name.strip():
                self._problem(f"{place}.name", "must be a text that says what the case shows")
            elif row_name in names:
                self._problem(f"{place}.name", f"{row_name!r} is the name of another case in this file; every one needs its own")
            else:
                names.add(row_name)
                yield self._case(row, document, f"{name} › {row_name}", place)

    def _case(self, document: Mapping[str, Any], table: Mapping[str, Any], name: str, place: str) -> Case:
        home, home_place = (document, place) if "event" in document else (table, "$")
        event, event_file = self._event(home.get("event"), f"{home_place}.event")

        for changes, at in ((table.get("with"), "$.with"), (document.get("with"), f"{place}.with")):
            self._change(event, changes, at)

        return Case(
            name=name,
            file=self._file,
            event=event,
            expectation=self._expectation(document, f"{place}.expect"),
            attempt_id=self._attempt_id(document.get("attempt_id"), f"{place}.attempt_id"),
            timeout_ms=self._timeout_ms(document.get("timeout_ms", table.get("timeout_ms")), f"{place}.timeout_ms"),
            event_file=event_file,
        )

    def _event(self, event: Any, place: str) -> tuple[dict[str, Any], Path | None]:
        if isinstance(event, dict):
            return copy.deepcopy(event), None

        if not isinstance(event, str):
            self._problem(place, "must be the event, or the path of its file relative to this one")
            return {}, None

        file = self._file.parent / event
        try:
            document = _parse(_read(file), file)
        except CasesError as error:
            self.problems += [f"{self._file}: {place}: {problem}" for problem in error.problems]
            return {}, file

        if not _TELLING.isdisjoint(document):
            self._problem(place, f"{file} holds cases; name a file that is the event itself")

        return document, file

    def _change(self, event: dict[str, Any], changes: Any, place: str) -> None:
        if changes is not None and not isinstance(changes, dict):
            self._problem(place, 'must be an object by path, such as {"request.language": "es"}')
            return

        for path, value in (changes or {}).items():
            try:
                change(event, path, copy.deepcopy(value))
            except ValueError as error:
                self._problem(f'{place}["{path}"]', str(error))

    def _expectation(self, document: Mapping[str, Any], place: str) -> Expectation | None:
        if "expect" not in document:
            return None
        try:
            return Expectation.parse(document["expect"], actions=self._actions, place=place)
        except CasesError as error:
            self.problems += [f"{self._file}: {problem}" for problem in error.problems]
            return None

    def _attempt_id(self, attempt_id: Any, place: str) -> str | None:
        if attempt_id is None or (isinstance(attempt_id, str) and 0 < len(attempt_id.encode()) <= 200):
            return attempt_id

        self._problem(place, "must be a text of 1 to 200 bytes")
        return None

    def _timeout_ms(self, timeout_ms: Any, place: str) -> int | None:
        if timeout_ms is None or (type(timeout_ms) is int and 0 <= timeout_ms <= MAX_TIMEOUT_MS):
            return timeout_ms

        self._problem(place, f"must be a whole number of milliseconds, at most {MAX_TIMEOUT_MS}")
        return None

    def _known_keys(self, document: Mapping[str, Any], known: Collection[str], place: str) -> None:
        for key in document:
            if key in known:
                continue

            if key in {"connection", "request", "user"}:
                self._problem(f"{place}.{key}", "this is of the event; move it into `event`")
            elif key == "expect":
                self._problem(f"{place}.expect", "a table has none; say in each of its cases what is expected")
            else:
                self._problem(f"{place}.{key}", f"there is no such key; {unknown(key, known)}")

    def _problem(self, place: str, problem: str) -> None:
        self.problems.append(f"{self._file}: {place}: {problem}")
