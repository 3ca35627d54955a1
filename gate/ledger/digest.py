"""The digest that tells whether two attempts with one id say the same.

It is taken over canonical JSON (sorted keys, no blanks, whole numbers without a fraction) without the volatile paths, so
that another key order, another encoder or a new IP address is no conflict (protocol/README.md, traps).
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from typing import Any

import orjson

from gate.errors import InvalidEvent

_Tree = dict[str, "_Tree | None"]  # None: the whole value is volatile
_RAW = b"raw:"
_EXACT = 2.0**53  # beyond it a float is no longer one integer


class Digester:
    """Makes digests: an algorithm tag, a colon, a hash. The tag changes with the volatile paths."""

    def __init__(self, volatile_paths: Sequence[str]) -> None:
        self._volatile: _Tree = {}
        for path in volatile_paths:
            *parents, name = path.split(".")
            tree = self._volatile
            for parent in parents:
                below = tree.setdefault(parent, {})
                if below is None:  # the parent is volatile as a whole
                    break
                tree = below
            else:
                tree[name] = None
        paths = ",".join(sorted(set(volatile_paths)))
        self._tag = b"c1-" + sha256(paths.encode()).hexdigest()[:8].encode() + b":"

    def of_document(self, document: dict[str, Any]) -> bytes:
        """Return the digest of a parsed attempt; the document is left as it is.

        Raises InvalidEvent where it is nested deeper than orjson writes (254 levels, though it reads 1024).
        """
        steady = _without(document, self._volatile)
        try:
            canonical = orjson.dumps(steady, option=orjson.OPT_SORT_KEYS)
        except orjson.JSONEncodeError:
            raise InvalidEvent("$", "is nested too deeply") from None
        if b".0" in canonical:  # perhaps a whole number that another encoder writes without a fraction
            canonical = orjson.dumps(_whole(steady), option=orjson.OPT_SORT_KEYS)
        return self._tag + sha256(canonical).hexdigest().encode()

    def of_bytes(self, value: bytes | None) -> bytes:
        """Return the digest of a value that cannot be parsed."""
        return _RAW + sha256(value or b"").hexdigest().encode()


def unreadable(digest: bytes) -> bool:
    """Tell whether a digest is that of a value that cannot be parsed."""
    return digest.startswith(_RAW)


def conflicts(one: bytes, other: bytes) -> bool:
    """Tell whether two digests are of different content; digests with different tags cannot be compared and never conflict."""
    return one != other and one.partition(b":")[0] == other.partition(b":")[0]


def _without(document: dict[str, Any], volatile: _Tree) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in document.items():
        if name in volatile:
            below = volatile[name]
            if below is None:
                continue
            if type(value) is dict:
                value = _without(value, below)  # noqa: PLW2901 - the same value with less in it
        kept[name] = value
    return kept


def _whole(value: Any) -> Any:
    if type(value) is dict:
        return {name: _whole(inner) for name, inner in value.items()}
    if type(value) is list:
        return [_whole(inner) for inner in value]
    if type(value) is float and value.is_integer() and abs(value) <= _EXACT:
        return int(value)
    return value
