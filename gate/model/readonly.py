"""Read-only JSON values: what an action may look at and cannot change.

They are real dicts and lists, so `json`, orjson, `in`, `==` and iteration work on them; only writing raises. `copy.deepcopy`
of one gives plain, changeable values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NoReturn

MAX_DEPTH: Final = 100
"""Levels of nesting in free-form parts of an event and in metadata; orjson writes 254 and Python recurses 1000."""

READ_ONLY: Final = (
    "the event is read-only: no action changes what the next one sees; copy the value, or use api.user.set_user_metadata()"
)


def refuse(*_: object, **__: object) -> NoReturn:
    """Raise TypeError: stands in for every method that writes."""
    raise TypeError(READ_ONLY)


class ReadOnlyDict(dict[str, Any]):
    """A JSON object that cannot be changed."""

    __slots__ = ()

    __setitem__ = __delitem__ = __ior__ = refuse
    clear = pop = popitem = setdefault = update = refuse

    def __hash__(self) -> int:  # type: ignore[override]  # dict has none; hashable, so that pydantic shares a default instead of copying it
        return hash(frozenset(self))

    def copy(self) -> dict[str, Any]:
        """Return a plain dict; nested values stay read-only."""
        return dict(self)

    def __copy__(self) -> dict[str, Any]:
        return dict(self)

    def __deepcopy__(self, memo: object) -> dict[str, Any]:
        return {key: thaw(value) for key, value in self.items()}

    def __reduce__(self) -> tuple[type, tuple[dict[str, Any]]]:
        return type(self), (dict(self),)


class ReadOnlyList(list[Any]):
    """A JSON array that cannot be changed."""

    __slots__ = ()

    __setitem__ = __delitem__ = __iadd__ = __imul__ = refuse
    append = clear = extend = insert = pop = remove = reverse = sort = refuse

    def __hash__(self) -> int:  # type: ignore[override]  # list has none; see ReadOnlyDict
        return len(self)

    def copy(self) -> list[Any]:
        """Return a plain list; nested values stay read-only."""
        return list(self)

    def __copy__(self) -> list[Any]:
        return list(self)

    def __deepcopy__(self, memo: object) -> list[Any]:
        return [thaw(value) for value in self]

    def __reduce__(self) -> tuple[type, tuple[list[Any]]]:
        return type(self), (list(self),)


class Secrets(ReadOnlyDict):
    """An action's secrets: values by key; printing it shows the keys only."""

    __slots__ = ()

    def __repr__(self) -> str:
        return f"Secrets({', '.join(self)})"

    __str__ = __repr__


EMPTY: Final = ReadOnlyDict()
NO_TEXTS: Final = ReadOnlyList()
NO_SECRETS: Final = Secrets()


def freeze(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Return a read-only copy of a JSON value; raises ValueError where it is nested deeper than `depth` levels."""
    kind = type(value)

    if kind is dict:
        return freeze_object(value, depth)

    if kind is list:
        if not depth:
            raise ValueError("nested too deeply")

        return ReadOnlyList([freeze(item, depth - 1) for item in value])

    return value


def freeze_object(value: Mapping[str, Any], depth: int = MAX_DEPTH) -> ReadOnlyDict:
    """Return a read-only copy of a JSON object."""
    for item in value.values():
        if type(item) is dict or type(item) is list:
            break
    else:
        return ReadOnlyDict(value)  # flat, as nearly all metadata is: one copy in C

    if not depth:
        raise ValueError("nested too deeply")

    return ReadOnlyDict({key: freeze(item, depth - 1) for key, item in value.items()})


def thaw(value: Any) -> Any:
    """Return a plain, changeable copy of a JSON value."""
    if isinstance(value, dict):
        return {key: thaw(item) for key, item in value.items()}

    if isinstance(value, list):
        return [thaw(item) for item in value]

    return value
