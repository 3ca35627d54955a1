"""The table of rules: what actions may count on, one row for each rule.

The rows stand in `*.toml` beside this file and say nothing of Python but under the keys `python` and `python_file`, so that
other languages can stand beside it and be held to the same answers. A row is a chain, an event and what is expected:

    [[rule]]
    name = "…"              # the promise; the id of its tests
    source = "DESIGN.md 3.1" # where the rule is written, or a list of those
    event = {…}             # merged into `base.json`; "<absent>" removes a key, "<null>" is null
    timeout_ms = 30000      # the asker's patience
    timeout_s = 20          # the chain's budget
    settings = {…}          # of the gate
    attempts = 0            # how many attempts go before the one that is looked at
    [[rule.action]]         # keys of the manifest; `secrets` is a table of values, "<server>" in them the tests' HTTP server
    python = "…"            # the body of the entry point; `sync = true` makes that a plain `def`
    python_file = "…"       # or the whole file
    [rule.expect]           # as in the case files of `gate test`; "<absent>" and "<null>" are null

A row with `invalid` instead of `expect` is an event that is none; one with `problem` a chain that cannot be loaded, made of
`action`s or of `files` by name.
"""

from __future__ import annotations

import json
import textwrap
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Final

from gate.chain.secrets import variable

HERE: Final = Path(__file__).parent
BASE: Final[dict[str, Any]] = json.loads((HERE / "base.json").read_text())
ENTRY: Final = "def on_execute_pre_user_registration(event, api):\n"
SERVER: Final = "<server>"
SECRET_CHARACTERS: Final = 8

_IDLE: Final = {"name": "idle", "python": "pass"}
_OURS: Final = frozenset({"python", "python_file", "sync"})  # keys of an action's table that are not the manifest's


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One row of the table."""

    name: str
    source: tuple[str, ...]
    subject: str  # the name of its file
    event: Mapping[str, Any] = field(default_factory=dict)
    timeout_ms: int | None = None
    timeout_s: float | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    attempts: int = 0
    action: tuple[Mapping[str, Any], ...] = ()
    expect: Mapping[str, Any] | None = None
    invalid: str | None = None
    problem: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name

    def write(self, folder: Path, *, form: str = "as written") -> None:
        """Write the row's chain into a folder, its actions in one of FORMS."""
        for name, content in self.files.items():
            (folder / name).write_text(content)

        if not self.action:
            return

        manifest = [] if self.timeout_s is None else [f"timeout_s = {self.timeout_s}"]

        for number, action in enumerate(self.action):
            file = action.get("file", f"action_{number}.py")
            source = _source(action, form)
            manifest += ["[[action]]", f"file = {_toml(file)}"]
            manifest += [f"{key} = {_toml(value)}" for key, value in _entry(action).items() if key != "file"]

            if source is not None:
                (folder / file).write_text(source)

        (folder / "chain.toml").write_text("\n".join([*manifest, ""]))

    def environ(self, server: str = "") -> dict[str, str]:
        """Return the environment that holds the secrets of the row's actions."""
        return {
            variable(_name(action), key): value.replace(SERVER, server)
            for action in self.action
            for key, value in action.get("secrets", {}).items()
        }

    def leaks(self, shown: str, server: str = "") -> list[str]:
        """Return what a text shows of the row's secrets; those that are too short to be found in no other word do not count."""
        lines = {line for value in self.environ(server).values() for line in value.splitlines()}
        return [line for line in sorted(lines) if len(line) >= SECRET_CHARACTERS and line in shown]

    @property
    def names(self) -> list[str]:
        """The names of the row's actions."""
        return [_name(action) for action in self.action]

    def has(self, form: str) -> bool:
        """Tell whether this form of the row's actions is another program than the row has already."""
        return any(_source(action, form) != _source(action) for action in self.action)


FORMS: Final = ("as written", "waits", "thread")
"""The three ways in which Python runs an action: by hand, in a task, in a thread.

A rule holds in each that its body can take, unless `sync` is written down.
"""


@cache
def rules() -> tuple[Rule, ...]:
    """Return all rows, file by file."""
    return tuple(_read(row, path) for path in sorted(HERE.glob("*.toml")) for row in tomllib.loads(path.read_text())["rule"])


def _read(row: dict[str, Any], path: Path) -> Rule:
    try:
        source = row.pop("source")
        row["source"] = (source,) if isinstance(source, str) else tuple(source)
        row["event"] = _merged(BASE, row.get("event", {}))
        row["action"] = tuple(row.get("action", [_IDLE] if "invalid" in row else []))

        if "expect" in row:
            row["expect"] = _nulls(row["expect"])

        rule = Rule(subject=path.stem, **row)
    except (KeyError, TypeError) as error:
        raise ValueError(f"{path.name}: rule {row.get('name')!r}: {error}") from None

    assert 1 == (rule.expect is not None) + (rule.invalid is not None) + (rule.problem is not None), rule
    return rule


def _merged(base: Any, changes: Any) -> Any:
    """Return a JSON value with changes; objects are merged."""
    if not isinstance(changes, dict):
        return _nulls(changes)

    kept = base if isinstance(base, dict) else {}
    return {
        key: _merged(kept.get(key), changes[key]) if key in changes else kept[key]
        for key in {**kept, **changes}
        if changes.get(key) != "<absent>"
    }


def _nulls(value: Any) -> Any:
    """Return a value with null where TOML could not write it."""
    if isinstance(value, dict):
        return {key: _nulls(item) for key, item in value.items()}

    if isinstance(value, list):
        return [_nulls(item) for item in value]

    return None if value in ("<null>", "<absent>") else value


def _name(action: Mapping[str, Any]) -> str:
    return str(action.get("name") or Path(action["file"]).stem)


def _entry(action: Mapping[str, Any]) -> dict[str, Any]:
    """Return the action's table of the manifest; of secrets it has the keys only."""
    entry = {key: value for key, value in action.items() if key not in _OURS}
    return {**entry, "secrets": list(entry["secrets"])} if "secrets" in entry else entry


def _source(action: Mapping[str, Any], form: str = "as written") -> str | None:
    """Return the file of an action; None if an earlier action has the same."""
    if "python_file" in action:
        return str(action["python_file"])

    if "python" not in action:
        return None

    body = str(action["python"])
    in_thread = action.get("sync", False)

    if form == "thread" and "sync" not in action and not any(word in body for word in ("await ", "async ", "asyncio")):
        in_thread = True
    elif form == "waits" and not in_thread and "await " not in body:
        body = f"await __import__('asyncio').sleep(0)\n{body}"

    return ("" if in_thread else "async ") + ENTRY + textwrap.indent(body, "    ")


def _toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(item)}" for key, item in value.items()) + " }"

    if isinstance(value, list):
        return "[" + ", ".join(map(_toml, value)) + "]"

    return json.dumps(value, ensure_ascii=False)  # texts, numbers and truth are written in both alike
