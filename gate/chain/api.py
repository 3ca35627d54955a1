"""The api: what an action commands.

Auth0's pre-user-registration v2 `api` in snake_case (AUTH0.md 1.2). Every method returns the `api`, so calls can be
chained; none of them ends the action. Arguments of the wrong type raise at the call, so the mistake shows in the action that made
it and follows its `on_error`. Calls after the action has returned are ignored and counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from gate.model.readonly import MAX_DEPTH

if TYPE_CHECKING:
    import httpx

    from gate.chain.effects import Effects
    from gate.chain.http import HttpPool

MAX_VALIDATION_CHARACTERS: Final = 100
"""Of code and message each, in code points (AUTH0.md 1.2; DESIGN.md section 3, 11)."""

_PLAIN_TYPES = frozenset({str, int, bool, float, type(None)})


class Access:
    """Whether the person may register."""

    __slots__ = ("_api", "_effects")

    def __init__(self, api: Api, effects: Effects) -> None:
        self._api = api
        self._effects = effects

    def deny(self, reason: str, user_message: str | None = None) -> Api:
        """Deny the registration: later actions do not run, the rest of this one does.

        `reason` goes to the logs, `user_message` to the person. The first denial of an action counts.
        """
        effects = self._effects

        if effects.closed:
            effects.late("access.deny")
            return self._api

        reason = _text("access.deny", "reason", reason)

        if user_message is not None:
            user_message = effects.action.redact(_text("access.deny", "user_message", user_message))

        effects.untouched = False

        if effects.denial is None:
            effects.denial = effects.action.redact(reason), user_message

        return self._api


class Validation:
    """Whether what the person entered can be used."""

    __slots__ = ("_api", "_effects")

    def __init__(self, api: Api, effects: Effects) -> None:
        self._api = api
        self._effects = effects

    def error(self, error_code: str, error_message: str, *, field: str | None = None) -> Api:
        """Refuse what the person entered: like a denial, but something they can mend and submit again.

        `error_code` goes to the logs, `error_message` to the person, each of at most 100 characters; `field` names the
        form field. An action may report several; all of them are kept in order.
        """
        effects = self._effects

        if effects.closed:
            effects.late("validation.error")
            return self._api

        redact = effects.action.redact
        error = {
            "code": redact(_short_text("error_code", error_code)),
            "message": redact(_short_text("error_message", error_message)),
        }

        if field is not None:
            error["field"] = redact(_text("validation.error", "field", field))

        effects.untouched = False

        if effects.errors is None:
            effects.errors = []

        effects.errors.append(error)
        return self._api


class UserChanges:
    """Metadata of the user who is created if nobody denies."""

    __slots__ = ("_api", "_effects")

    def __init__(self, api: Api, effects: Effects) -> None:
        self._api = api
        self._effects = effects

    def set_user_metadata(self, key: str, value: Any) -> Api:
        """Set a key of the metadata that the user may change; None removes it.

        `value` is any JSON value, taken as it is now. The last write to a key wins, across all actions; nested objects are
        replaced whole.
        """
        effects = self._effects

        if effects.closed:
            effects.late("user.set_user_metadata")
            return self._api

        key, value = _metadata("user.set_user_metadata", key, value)

        effects.untouched = False

        if effects.user_metadata is None:
            effects.user_metadata = {}

        effects.user_metadata[key] = value
        return self._api

    def set_app_metadata(self, key: str, value: Any) -> Api:
        """Set a key of the metadata that the user may not change, as `set_user_metadata` does."""
        effects = self._effects

        if effects.closed:
            effects.late("user.set_app_metadata")
            return self._api

        key, value = _metadata("user.set_app_metadata", key, value)

        effects.untouched = False

        if effects.app_metadata is None:
            effects.app_metadata = {}

        effects.app_metadata[key] = value
        return self._api


class Api:
    """What an action commands: `access`, `validation`, `user`, and the way out, `http`."""

    __slots__ = ("_effects",)

    def __init__(self, effects: Effects) -> None:
        self._effects = effects

    def __repr__(self) -> str:
        return f"<Api of {self._effects.action.name}>"

    # The parts are made when asked for: most actions that look at an event command nothing, and this is the hot path.

    @property
    def access(self) -> Access:
        """Whether the person may register."""
        return Access(self, self._effects)

    @property
    def validation(self) -> Validation:
        """Whether what the person entered can be used."""
        return Validation(self, self._effects)

    @property
    def user(self) -> UserChanges:
        """Metadata of the user who is created if nobody denies."""
        return UserChanges(self, self._effects)

    @property
    def http(self) -> httpx.AsyncClient:
        """The shared, pooled HTTP client for `async def` actions.

        No cookies, no redirects, nothing from the environment. Every call ends within what is left of the action's time
        limit (`timeout` shortens that, for the call as a whole) or raises `httpx.TimeoutException`.
        """
        return self._pool.client

    @property
    def http_sync(self) -> httpx.Client:
        """The twin of `http` for plain `def` actions."""
        return self._pool.sync_client

    @property
    def _pool(self) -> HttpPool:
        resources = self._effects.resources

        if resources is None:
            raise RuntimeError("api.http works while the chain is started: `async with chain`")

        return resources.http


def _text(call: str, name: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"api.{call}: {name} must be a string, not {type(value).__name__}")

    if not value.isascii():
        _check_utf8(f"api.{call}: {name}", value)

    return str(value) if type(value) is not str else value


def _short_text(name: str, value: object) -> str:
    text = _text("validation.error", name, value)

    if len(text) > MAX_VALIDATION_CHARACTERS:
        raise ValueError(f"api.validation.error: {name} has {len(text)} characters, more than {MAX_VALIDATION_CHARACTERS}")

    return text


def _metadata(call: str, key: object, value: object) -> tuple[str, Any]:
    text = _text(call, "key", key)

    if not text:
        raise ValueError(f"api.{call}: key is empty")

    if type(value) is str and value.isascii():
        return text, value

    return text, _json(value, f"api.{call}: value of {text!r}", MAX_DEPTH)


def _json(value: Any, where: str, depth: int) -> Any:
    """Return a plain copy of a JSON value; raises where it is none, so that a decision can always be written down."""
    kind = type(value)

    if kind in _PLAIN_TYPES:
        if kind is str:
            if not value.isascii():
                _check_utf8(where, value)
        elif kind is float:
            if not math.isfinite(value):
                raise ValueError(f"{where} is {value}, which JSON cannot hold")
        elif kind is int and not -(2**63) <= value < 2**64:
            raise ValueError(f"{where} is an integer of more than 64 bits")

        return value

    if not depth:
        raise ValueError(f"{where} is nested more than {MAX_DEPTH} levels deep")

    if isinstance(value, Mapping):
        return {_json_key(key, where): _json(item, where, depth - 1) for key, item in value.items()}

    if isinstance(value, (list, tuple)):
        return [_json(item, where, depth - 1) for item in value]

    for plain in (str, int, float):  # enum members and the like: what they are in JSON
        if isinstance(value, plain):
            return _json(plain(value), where, depth)

    raise TypeError(f"{where} holds {kind.__name__}, which is not a JSON value")


def _json_key(key: object, where: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{where} has a key that is not a string but {type(key).__name__}")

    if not key.isascii():
        _check_utf8(where, key)

    return str(key)


def _check_utf8(what: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} holds half of a surrogate pair, which UTF-8 cannot hold") from None
