"""In what two JSON values differ. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final


class Absent(Enum):
    """Stands for a value that is not there, where null would be a value."""

    ABSENT = "absent"


ABSENT: Final = Absent.ABSENT


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """One thing in which a reply is not what was expected; a value that is not there is ABSENT."""

    path: str  # such as `user_metadata.plan` or `trace.deny-by-location.outcome`
    expected: Any
    got: Any
    wanted: str = "expected"  # how `expected` is meant

    def __str__(self) -> str:
        return f"{self.path}: {self.wanted} {shown(self.expected)}, got {shown(self.got)}"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON; what is absent has no key."""
        values = {"expected": self.expected, "got": self.got}
        return {"path": self.path, **{name: value for name, value in values.items() if value is not ABSENT}}


def shown(value: Any) -> str:
    """Return a value of a Difference as people read it: JSON on one line, or `nothing`."""
    return "nothing" if value is ABSENT else json.dumps(value, ensure_ascii=False, default=str)


def at(document: Mapping[str, Any], key: str) -> Any:
    """Return the value of a key, ABSENT if there is none."""
    return document.get(key, ABSENT)


def compare(path: str, expected: Any, got: Any) -> Iterator[Difference]:
    """Yield where two JSON values differ, as deep inside as both are objects or lists of one length."""
    if isinstance(expected, dict) and isinstance(got, dict):
        for key in {**expected, **got}:
            yield from compare(f"{path}.{key}", at(expected, key), at(got, key))
    elif isinstance(expected, list) and isinstance(got, list) and len(expected) == len(got):
        for index, pair in enumerate(zip(expected, got, strict=True)):
            yield from compare(f"{path}[{index}]", *pair)
    elif expected != got or isinstance(expected, bool) is not isinstance(got, bool):  # True == 1 in Python, not in JSON
        yield Difference(path=path, expected=expected, got=got)
