"""The api: what an action commands.

Auth0's pre-user-registration v2 `api` in snake_case (AUTH0.md 1.2). Every method returns the `api`, so calls can be
chained; none of them ends the action. Arguments of the wrong type raise at the call, so the mistake shows in the action that made
it and follows its `on_error`. Calls after the action has returned are ignored and counted.
"""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any, Final

from gate.chain import metadata
from gate.chain.arguments import milliseconds, text
from gate.chain.cache import Cache, CacheError, CacheRecord, CacheResult, refused

if TYPE_CHECKING:
    import httpx

    from gate.chain.effects import Effects
    from gate.chain.resources import Resources

MAX_VALIDATION_CHARACTERS: Final = 100
"""Of code and message each, in code points (AUTH0.md 1.2; DESIGN.md section 3, 11)."""

USER_ID: Final = re.compile(r"[a-zA-Z0-9@._+-]{1,255}")
"""What Auth0's own implementation takes (AUTH0.md 1.2)."""


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

        reason = text("access.deny", "reason", reason)

        if user_message is not None:
            user_message = effects.action.redact(text("access.deny", "user_message", user_message))

        effects.untouched = False

        if effects.denial is None:
            effects.denial = effects.action.redact(reason), user_message
            effects.denied_at_s = time.monotonic()

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
            error["field"] = redact(text("validation.error", "field", field))

        effects.untouched = False

        if effects.errors is None:
            effects.errors = []

        effects.errors.append(error)
        return self._api


class UserChanges:
    """What becomes of the user who is created if nobody denies."""

    __slots__ = ("_api", "_effects")

    def __init__(self, api: Api, effects: Effects) -> None:
        self._api = api
        self._effects = effects

    def set_user_metadata(self, key: str, value: Any) -> Api:
        """Set a key of the metadata that the user may change; None removes it.

        `value` is any JSON value, taken as it is now. The last write to a key wins, across all actions; nested objects are
        replaced whole. All that the actions of one chain set may have 32,768 bytes as JSON.
        """
        return self._set("user_metadata", key, value)

    def set_app_metadata(self, key: str, value: Any) -> Api:
        """Set a key of the metadata that the user may not change, as `set_user_metadata` does.

        Keys that mean something else in a user profile are reserved.
        """
        return self._set("app_metadata", key, value)

    def set_user_id(self, user_id: str) -> Api:
        """Choose the id of the user: 1 to 255 ASCII letters, digits and `@._+-`. Works where GATE_SET_USER_ID allows it."""
        effects = self._effects

        if effects.closed:
            effects.late("user.set_user_id")
            return self._api

        if effects.resources is None or not effects.resources.set_user_id:
            raise RuntimeError("api.user.set_user_id is off; GATE_SET_USER_ID=true turns it on")

        user_id = text("user.set_user_id", "user_id", user_id)

        if not USER_ID.fullmatch(user_id):
            raise ValueError("api.user.set_user_id: user_id must be 1 to 255 ASCII letters, digits, '@', '.', '_', '+' or '-'")

        if effects.action.redact(user_id) != user_id:
            raise ValueError("api.user.set_user_id: user_id holds a secret of the action")

        effects.untouched = False
        effects.user_id = user_id
        return self._api

    def _set(self, scope: str, key: str, value: Any) -> Api:
        effects = self._effects

        if effects.closed:
            effects.late(f"user.set_{scope}")
        else:
            metadata.take(effects, scope, key, value)

        return self._api


class CacheAccess:
    """What the actions of the worker have cached: best effort, for all attempts."""

    __slots__ = ("_cache", "_effects")

    def __init__(self, effects: Effects, cache: Cache) -> None:
        self._effects = effects
        self._cache = cache

    def get(self, key: str) -> CacheRecord | None:
        """Return the record of a key (`value`, `expires_at` in ms since the epoch); None if it is missing or expired."""
        if self._closed("get"):
            return None

        return self._cache.get(text("cache.get", "key", key))

    def set(self, key: str, value: str, *, ttl: float | None = None, expires_at: float | None = None) -> CacheResult:
        """Cache a text until the earlier of `ttl` (ms from now) and `expires_at` (ms since the epoch), else for 15 minutes.

        Returns a result whose `type` is "success", with the `record`, or "error", with the `code`. Limits: key 64 bytes, value
        4,096 bytes, 20 entries, 8,192 bytes in all, a day.
        """
        if self._closed("set"):
            return refused(CacheError.NOT_SET)

        key, value = text("cache.set", "key", key), text("cache.set", "value", value)
        return self._cache.set(
            key, value, ttl=milliseconds("cache.set", "ttl", ttl), expires_at=milliseconds("cache.set", "expires_at", expires_at)
        )

    def delete(self, key: str) -> CacheResult:
        """Remove a key; an error with the code `CacheKeyDoesNotExist` if it is not there."""
        if self._closed("delete"):
            return refused(CacheError.NOT_DELETED)

        return self._cache.delete(text("cache.delete", "key", key))

    def _closed(self, call: str) -> bool:
        if self._effects.closed:
            self._effects.late(f"cache.{call}")

        return self._effects.closed


class Api:
    """What an action commands: `access`, `validation`, `user`, `cache`, and the way out, `http`."""

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
        """What becomes of the user who is created if nobody denies."""
        return UserChanges(self, self._effects)

    @property
    def cache(self) -> CacheAccess:
        """What the actions of the worker have cached."""
        return CacheAccess(self._effects, self._resources("cache").cache)

    @property
    def http(self) -> httpx.AsyncClient:
        """The shared, pooled HTTP client for `async def` actions.

        No cookies, no redirects, nothing from the environment. Every call ends within what is left of the action's time
        limit (`timeout` shortens that, for the call as a whole) or raises `httpx.TimeoutException`.
        """
        return self._resources("http").http.client

    @property
    def http_sync(self) -> httpx.Client:
        """The twin of `http` for plain `def` actions."""
        return self._resources("http_sync").http.sync_client

    def _resources(self, part: str) -> Resources:
        resources = self._effects.resources

        if resources is None:
            raise RuntimeError(f"api.{part} works while the chain is started: `async with chain`")

        return resources


def _short_text(name: str, value: object) -> str:
    short = text("validation.error", name, value)

    if len(short) > MAX_VALIDATION_CHARACTERS:
        raise ValueError(f"api.validation.error: {name} has {len(short)} characters, more than {MAX_VALIDATION_CHARACTERS}")

    return short
