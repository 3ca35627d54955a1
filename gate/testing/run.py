"""Runs an action or a chain on an event, by the engine that workers use, for tests in Python."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any, Final

from gate.chain.action import Action, Code
from gate.chain.loader import LANGUAGES, load_chain
from gate.chain.python import ActionFileError, read_entry
from gate.chain.runner import Chain
from gate.chain.secrets import variable
from gate.chain.trial import TIMEOUT_MS, run_trial, started
from gate.errors import ChainError
from gate.model.event import DATABASE
from gate.model.readonly import Secrets, freeze_object
from gate.testing.cases import Case
from gate.testing.event import build_event
from gate.testing.result import Result

ATTEMPT_ID: Final = "test"
_REQUIRED: Final = ("connection", "request", "user")


async def run_action(
    action: Callable[..., Any] | str | Path,
    event: Mapping[str, Any] | None = None,
    *,
    secrets: Mapping[str, str] | None = None,
    config: Mapping[str, Any] | None = None,
    attempt_id: str = ATTEMPT_ID,
    timeout_s: float = float("inf"),
    set_user_id: bool = False,
) -> Result:
    """Run one action, its entry point or its file, on an event; raises ChainError if it is none.

    Of the event only `connection`, `request` and `user` are filled in where they are missing; without one it is
    `build_event()`. `timeout_s` is the action's own limit, as in a manifest, `set_user_id` the setting of that name. A file is
    loaded anew by every call, so nothing that its module holds lasts.
    """
    code, file = _read_file(Path(action)) if isinstance(action, (str, Path)) else _read_function(action)
    made = Action(
        name=file.stem,
        code=code,
        file=file,
        timeout_s=timeout_s,
        secrets=Secrets(secrets or {}),
        config=freeze_object(dict(config or {})),
    )
    try:
        async with started(Chain([made]), set_user_id=set_user_id) as chain:
            return Result.from_reply(await run_trial(chain, _filled(event), attempt_id=attempt_id))
    finally:
        code.release()


async def run_chain(
    chain: Chain | str | Path,
    event: Mapping[str, Any] | Case | None = None,
    *,
    secrets: Mapping[str, Mapping[str, str]] | None = None,
    attempt_id: str = ATTEMPT_ID,
    timeout_s: float = TIMEOUT_MS / 1000,
    set_user_id: bool = False,
) -> Result:
    """Run a whole chain, loaded or not yet, on an event or a case; raises ChainError if it cannot be loaded.

    `secrets` are by name of the action and key; what is missing there is looked for where a worker looks. `timeout_s` is the
    asker's patience. A case brings its own attempt id and patience, and its event is taken as it stands. With a chain that is
    started, what its modules and its cache hold lasts from one call to the next.
    """
    if not isinstance(chain, Chain):
        loaded = load_chain(Path(chain), environ={**os.environ, **_environ(secrets or {})})
        try:
            return await run_chain(loaded, event, attempt_id=attempt_id, timeout_s=timeout_s, set_user_id=set_user_id)
        finally:
            loaded.release()

    if secrets is not None:
        raise TypeError("secrets go into a chain when it is loaded; pass its path, or load it with them")

    if not chain.started:
        async with started(chain, set_user_id=set_user_id):
            return await run_chain(chain, event, attempt_id=attempt_id, timeout_s=timeout_s)

    if isinstance(event, Case):
        timeout_ms = TIMEOUT_MS if event.timeout_ms is None else event.timeout_ms
        reply = await run_trial(chain, event.event, attempt_id=event.stable_attempt_id, timeout_ms=timeout_ms, deny_invalid=True)
    else:
        reply = await run_trial(chain, _filled(event), attempt_id=attempt_id, timeout_ms=round(timeout_s * 1000))

    return Result.from_reply(reply)


def _filled(event: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the event with what every event has."""
    whole = build_event()

    if event is None:
        return whole

    filled = {**{name: whole[name] for name in _REQUIRED}, **event}

    if isinstance(filled["connection"], Mapping):
        filled["connection"] = {"strategy": DATABASE, **filled["connection"]}

    return filled


def _environ(secrets: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    return {variable(action, key): value for action, values in secrets.items() for key, value in values.items()}


def _read_file(path: Path) -> tuple[Code, Path]:
    load = LANGUAGES.get(path.suffix)

    if load is None:
        raise ChainError(
            [f"{path}: not an action; its name must end in {' or '.join(LANGUAGES)} (run_chain() takes a whole chain)"]
        )
    try:
        return load(path, path.read_bytes(), name=path.stem), path
    except OSError as error:
        raise ChainError([f"{path}: the action cannot be read: {error.strerror}"]) from None
    except ActionFileError as bad:
        raise ChainError([f"{path}:{bad.line}: {bad}"]) from None


def _read_function(entry: Callable[..., Any]) -> tuple[Code, Path]:
    file = entry.__code__.co_filename if isinstance(entry, FunctionType) else "action"
    try:
        return read_entry(entry, file=file), Path(file)
    except ActionFileError as bad:
        raise ChainError([f"{file}:{bad.line}: {bad}"]) from None
