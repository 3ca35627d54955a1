"""What metadata may be: Auth0's limits on keys and sizes, and nothing of a secret (AUTH0.md 1.4)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import orjson

from gate.chain.arguments import plain_json, text

if TYPE_CHECKING:
    from gate.chain.effects import Effects

MAX_SCOPE_BYTES: Final = 32_768
"""Of `user_metadata` and of `app_metadata`, over all changes of one run, as JSON."""

RESERVED: Final[Mapping[str, frozenset[str]]] = {
    "user_metadata": frozenset(),
    "app_metadata": frozenset(
        {
            "__tenant",
            "_id",
            "blocked",
            "clientID",
            "created_at",
            "email",
            "email_verified",
            "globalClientID",
            "global_client_id",
            "identities",
            "lastIP",
            "lastLogin",
            "loginsCount",
            "metadata",
            "multifactor",
            "multifactor_last_modified",
            "updated_at",
            "user_id",
        }
    ),
}
"""Keys that mean something else in a user profile (Auth0 docs, "Metadata Field Names and Data Types")."""


def take(effects: Effects, scope: str, key: Any, value: Any) -> None:
    """Take a change of metadata; raises TypeError or ValueError for one that can never be stored."""
    call = f"user.set_{scope}"
    key = _key(call, scope, key)

    if type(value) is not str or not value.isascii():
        value = plain_json(value, f"api.{call}: value of {key!r}")

    if effects.action.secrets:
        key, value = _without_secrets(key, effects), _without_secrets(value, effects)

    _check_room(call, effects, scope, key, value)
    effects.untouched = False

    if effects.changes is None:
        effects.changes = {scope: {key: value}}
    else:
        effects.changes.setdefault(scope, {})[key] = value


def _key(call: str, scope: str, key: object) -> str:
    name = text(call, "key", key)

    if not name:
        raise ValueError(f"api.{call}: key is empty")

    if "." in name or "$" in name:
        raise ValueError(f"api.{call}: key {name!r} holds '.' or '$', which metadata keys may not; nest an object instead")

    if name in RESERVED[scope]:
        raise ValueError(f"api.{call}: key {name!r} is reserved; choose another name")

    return name


def _check_room(call: str, effects: Effects, scope: str, key: str, value: object) -> None:
    """Refuse what makes the changes of a scope too large. They are added up first, exactly only where the sum is too much."""
    outcome = effects.outcome
    outcome.metadata_bytes += len(key) + (len(value) if type(value) is str else len(orjson.dumps(value))) + _PUNCTUATION

    if outcome.metadata_bytes <= _SURELY_FITS:
        return

    earlier = outcome.changes.get(scope, {})
    mine = (effects.changes or {}).get(scope, {})
    size_bytes = len(orjson.dumps({**earlier, **mine, key: value}))

    if size_bytes > MAX_SCOPE_BYTES:
        raise ValueError(f"api.{call}: {scope} would have {size_bytes:,} bytes as JSON, more than {MAX_SCOPE_BYTES:,}")


_PUNCTUATION: Final = 6  # quotation marks, colon and comma
_SURELY_FITS: Final = MAX_SCOPE_BYTES // 6  # JSON escapes make six bytes of one character at worst


def _without_secrets(value: Any, effects: Effects) -> Any:
    """Return a value in which nothing is left of the action's secrets: replies go to others, and to logs."""
    if isinstance(value, str):
        shown = effects.action.redact(value)

        if shown != value:
            effects.secret_removed = True

        return shown

    if isinstance(value, dict):
        return {_without_secrets(key, effects): _without_secrets(item, effects) for key, item in value.items()}

    return [_without_secrets(item, effects) for item in value] if isinstance(value, list) else value
