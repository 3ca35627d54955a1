"""Checks what actions pass to the api: wrong types raise at the call (DESIGN.md section 3, rule 8)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gate.model.readonly import MAX_DEPTH

_PLAIN_TYPES = frozenset({str, int, bool, float, type(None)})


def text(call: str, name: str, value: object) -> str:
    """Return a string argument that UTF-8 can hold; raises TypeError, ValueError."""
    if not isinstance(value, str):
        raise TypeError(f"api.{call}: {name} must be a string, not {type(value).__name__}")

    if type(value) is not str:
        value = str.__str__(value)  # an enum's member, say: its text, whatever its class prints

    if not value.isascii():
        _check_utf8(f"api.{call}: {name}", value)

    return value


def milliseconds(call: str, name: str, value: object) -> float | None:
    """Return an optional number argument; raises TypeError."""
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return value

    raise TypeError(f"api.{call}: {name} must be a number of milliseconds, not {type(value).__name__}")


def plain_json(value: Any, where: str, depth: int = MAX_DEPTH) -> Any:
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
        return {_json_key(key, where): plain_json(item, where, depth - 1) for key, item in value.items()}

    if isinstance(value, (list, tuple)):
        return [plain_json(item, where, depth - 1) for item in value]

    for plain in (str, int, float):  # enum members and the like: what they are in JSON
        if isinstance(value, plain):
            return plain_json(plain(value), where, depth)

    raise TypeError(f"{where} holds {kind.__name__}, which is not a JSON value")


def _json_key(key: object, where: str) -> str:
    if not isinstance(key, str):
        raise TypeError(f"{where} has a key that is not a string but {type(key).__name__}")

    key = str.__str__(key)

    if not key.isascii():
        _check_utf8(where, key)

    return key


def _check_utf8(what: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} holds half of a surrogate pair, which UTF-8 cannot hold") from None
