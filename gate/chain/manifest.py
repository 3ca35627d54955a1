"""Reads `chain.toml` and finds every problem in it, each with its line.

Python's TOML reader keeps no positions, so lines are found by a second, simple look at the text.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

from gate.chain.action import DEFAULT_BACKOFF_S, DEFAULT_TIMEOUT_S, When

MANIFEST: Final = "chain.toml"
MAX_ACTIONS: Final = 20
"""Per chain (AUTH0.md 1.4)."""

MAX_RETRIES: Final = 10

_CHAIN_KEYS = ("timeout_s", "action")
_ACTION_KEYS = ("name", "file", "timeout_s", "on_error", "retries", "backoff_s", "secrets", "when", "config")
_WHEN_KEYS = ("strategies", "connections", "clients", "tenants", "countries")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One `[[action]]` of a manifest, checked."""

    name: str
    file: Path
    line: int
    timeout_s: float = math.inf
    on_error: Literal["deny", "skip"] = "deny"
    retries: int = 0
    backoff_s: float = DEFAULT_BACKOFF_S
    secrets: tuple[str, ...] = ()
    secrets_line: int = 1
    when: When | None = None
    config: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest, checked; `problems` has those that were found, and what they concern is left out of the rest."""

    entries: tuple[Entry, ...] = ()
    timeout_s: float = DEFAULT_TIMEOUT_S
    problems: tuple[str, ...] = ()


def read_manifest(path: Path, text: str) -> Manifest:
    """Read the text of a manifest; never raises for what is wrong in it."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        at = re.search(r"\(at line (\d+), column \d+\)|\(at end of document\)", str(error))
        line = int(at[1]) if at and at[1] else len(text.splitlines()) or 1
        problem = str(error)[: at.start()].strip() if at else str(error)
        return Manifest(problems=(f"{path}:{line}: not TOML: {problem}",))
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, a thousand brackets
        return Manifest(problems=(f"{path}:1: cannot be read: {type(error).__name__}; shorten its longest value",))

    reader = _Reader(path, _Lines(text))
    return reader.read(document)


class _Lines:
    """On which line a manifest's tables and keys stand; `action` is None for the top, else counts from 0."""

    def __init__(self, text: str) -> None:
        self._lines: dict[tuple[int | None, str], int] = {}
        action: int | None = None
        prefix = ""

        for number, line in enumerate(text.splitlines(), 1):
            table = re.match(r"\s*(\[\[?)\s*([^\]]+?)\s*\]", line)

            if table:
                if table[1] == "[[" and table[2] == "action":
                    action, prefix = 0 if action is None else action + 1, ""
                    self._lines[action, ""] = number
                else:
                    prefix = table[2].removeprefix("action.") + "."
                    self._lines.setdefault((action, prefix[:-1]), number)

                continue

            key = re.match(r"\s*(?:([A-Za-z0-9_-]+)|\"([^\"]*)\"|'([^']*)')\s*[.=]", line)

            if key:
                self._lines.setdefault((action, prefix + (key[1] or key[2] or key[3] or "")), number)

    def find(self, action: int | None, *keys: str) -> int:
        """Return the line of the innermost of nested keys that stands on a line of its own."""
        for depth in range(len(keys), -1, -1):
            line = self._lines.get((action, ".".join(keys[:depth])))

            if line is not None:
                return line

        return 1


class _Reader:
    """Checks a parsed manifest against what may stand in it."""

    def __init__(self, path: Path, lines: _Lines) -> None:
        self._path = path
        self._lines = lines
        self._problems: list[str] = []

    def read(self, document: dict[str, Any]) -> Manifest:
        self._known_keys(None, document, _CHAIN_KEYS)
        timeout_s = self._seconds(None, document, "timeout_s", DEFAULT_TIMEOUT_S)
        tables = document.get("action", [])

        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
            self._problem(self._lines.find(None, "action"), "action must be tables; write [[action]]")
            tables = []
        elif not tables:
            self._problem(1, "no action; add [[action]] with name and file")

        if len(tables) > MAX_ACTIONS:
            self._problem(
                self._lines.find(MAX_ACTIONS), f"{len(tables)} actions, more than {MAX_ACTIONS}; remove some or join them"
            )

        entries = [entry for index, table in enumerate(tables) if (entry := self._entry(index, table)) is not None]
        self._unique_names(entries)
        return Manifest(entries=tuple(entries), timeout_s=timeout_s, problems=tuple(self._problems))

    def _entry(self, index: int, table: dict[str, Any]) -> Entry | None:
        before = len(self._problems)
        line = self._lines.find(index)
        self._known_keys(index, table, _ACTION_KEYS)
        file = table.get("file")

        if file is None:
            self._problem(line, 'file is missing; add file = "….py"')
        elif not isinstance(file, str) or not file:
            self._problem(self._lines.find(index, "file"), "file must be a path, relative to the manifest")

        name = table.get("name", Path(file).stem if isinstance(file, str) else "?")

        if not isinstance(name, str) or ("name" in table and not _NAME.fullmatch(name)):
            self._problem(
                self._lines.find(index, "name"),
                "name must be 1 to 64 letters, digits, '-', '_' or '.', the first a letter or digit",
            )

        on_error = table.get("on_error", "deny")

        if on_error not in ("deny", "skip"):
            self._problem(self._lines.find(index, "on_error"), 'on_error must be "deny" or "skip"')

        timeout_s = self._seconds(index, table, "timeout_s", math.inf)
        backoff_s = self._seconds(index, table, "backoff_s", DEFAULT_BACKOFF_S)
        retries = table.get("retries", 0)

        if type(retries) is not int or not 0 <= retries <= MAX_RETRIES:
            self._problem(self._lines.find(index, "retries"), f"retries must be a whole number from 0 to {MAX_RETRIES}")
            retries = 0

        secrets = self._texts(index, table, "secrets")
        when = self._when(index, table)
        config = self._config(index, table)

        if len(self._problems) > before and not (isinstance(file, str) and file and isinstance(name, str)):
            return None

        return Entry(
            name=str(name),
            file=self._path.parent / str(file),
            line=line if file is None else self._lines.find(index, "file"),
            timeout_s=timeout_s,
            on_error="skip" if on_error == "skip" else "deny",
            retries=retries,
            backoff_s=backoff_s,
            secrets=secrets,
            secrets_line=self._lines.find(index, "secrets"),
            when=when,
            config=config,
        )

    def _when(self, index: int, table: dict[str, Any]) -> When | None:
        conditions = table.get("when")

        if conditions is None:
            return None

        if not isinstance(conditions, dict):
            self._problem(self._lines.find(index, "when"), f"when must be a table of {_listed(_WHEN_KEYS)}")
            return None

        self._known_keys(index, conditions, _WHEN_KEYS, "when")
        given = {key: frozenset(self._texts(index, conditions, key, "when")) for key in _WHEN_KEYS if key in conditions}

        if "countries" in given:
            given["countries"] = frozenset(country.upper() for country in given["countries"])

            for country in sorted(given["countries"]):
                if not re.fullmatch(r"[A-Z]{2}", country):
                    self._problem(
                        self._lines.find(index, "when", "countries"),
                        f"country {country!r} must be two letters, as in ISO 3166-1 alpha-2",
                    )

        for key in given:
            if conditions[key] == []:
                self._problem(
                    self._lines.find(index, "when", key),
                    f"when.{key} is empty, so the action would never run; remove it or name some",
                )

        return When(**given)

    def _config(self, index: int, table: dict[str, Any]) -> dict[str, Any]:
        config = table.get("config", {})

        if not isinstance(config, dict):
            self._problem(self._lines.find(index, "config"), "config must be a table; write [action.config]")
            return {}

        for key, value in config.items():
            if not _plain(value):
                self._problem(
                    self._lines.find(index, "config", key),
                    f"config.{key} must be plain: text, number, true, false, a list or a table of those",
                )

        return config

    def _seconds(self, index: int | None, table: dict[str, Any], key: str, default: float) -> float:
        value = table.get(key, default)

        if (
            isinstance(value, (int, float))
            and not isinstance(value, bool)
            and value > 0
            and (key not in table or math.isfinite(value))
        ):
            return float(value)

        self._problem(self._lines.find(index, key), f"{key} must be a number of seconds above 0")
        return default

    def _texts(self, index: int, table: dict[str, Any], key: str, *parents: str) -> tuple[str, ...]:
        value = table.get(key, [])

        if isinstance(value, list) and all(isinstance(item, str) and item for item in value):
            return tuple(value)

        name = ".".join(("when", key)) if key in _WHEN_KEYS else key
        self._problem(self._lines.find(index, *parents, key), f'{name} must be a list of texts, such as ["a", "b"]')
        return ()

    def _known_keys(self, index: int | None, table: Mapping[str, Any], known: Iterable[str], *parents: str) -> None:
        known = tuple(known)

        for key in table:
            if key not in known:
                near = difflib.get_close_matches(key, known, 1)
                mend = f"did you mean {near[0]}?" if near else f"known are {_listed(known)}"
                self._problem(self._lines.find(index, *parents, key), f"unknown key {key}; {mend}")

    def _unique_names(self, entries: Iterable[Entry]) -> None:
        first: dict[str, int] = {}

        for entry in entries:
            if entry.name in first:
                self._problem(
                    entry.line,
                    f"the name {entry.name} is taken by the action on line {first[entry.name]}; every action needs its own",
                )
            else:
                first[entry.name] = entry.line

    def _problem(self, line: int, problem: str) -> None:
        self._problems.append(f"{self._path}:{line}: {problem}")


def _plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(map(_plain, value.values()))

    if isinstance(value, list):
        return all(map(_plain, value))

    return isinstance(value, (str, bool)) or (isinstance(value, (int, float)) and math.isfinite(value))


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)
