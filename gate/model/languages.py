"""Finds what is there in a language that a person reads: RFC 4647 "lookup" over what browsers and applications send.

What comes in is anybody's: values that are no language find nothing, and none of them raises or takes long.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

MAX_CHARACTERS: Final = 300
"""Of one wish; a longer one finds nothing. Browsers send a third of that."""

MAX_WISHES: Final = 20
"""More are not looked at."""

LEGAL_TAG: Final = re.compile(r"[A-Za-z]{1,8}(-[A-Za-z0-9]{1,8})*")  # RFC 4647 2.1

_WEIGHTED: Final = re.compile(r"\s*([A-Za-z0-9_-]+)\s*(?:;\s*[qQ]\s*=\s*([01](?:\.[0-9]*)?)\s*)?")
"""A language of an Accept-Language header (RFC 9110 12.5.4). `*` is left out: it wishes for nothing that is not the default."""


class Languages(Generic[T]):
    """Values by language tag."""

    __slots__ = ("_by_tag",)

    def __init__(self, by_tag: Mapping[str, T]) -> None:
        self._by_tag = {normal(tag): value for tag, value in by_tag.items()}
        self._by_tag.update(by_tag)  # as they are written, too: most people's tag is then found at once

    def find(self, wish: object) -> T | None:
        """Return what is there for a tag or for a whole Accept-Language header; None where nothing is."""
        if not isinstance(wish, str) or len(wish) > MAX_CHARACTERS:
            return None

        found = self._by_tag.get(wish)

        if found is not None:
            return found

        return self.first(_preferred(wish)) if "," in wish or ";" in wish else self._look_up(wish)

    def first(self, wishes: Iterable[object]) -> T | None:
        """Return what is there for the first of several wishes for which something is."""
        for wish in islice(wishes, MAX_WISHES):
            found = self.find(wish)

            if found is not None:
                return found

        return None

    def _look_up(self, wish: str) -> T | None:
        tag = normal(wish)

        while tag:
            found = self._by_tag.get(tag)

            if found is not None:
                return found

            tag = shortened(tag)

        return None


def normal(tag: str) -> str:
    """Return a tag in the form in which tags are compared."""
    return tag.strip().replace("_", "-").lower()


def shortened(tag: str) -> str:
    """Return a normal tag without its last part; empty where it has only one."""
    tag = tag.rpartition("-")[0]
    return tag[:-2] if tag[-2:-1] == "-" else tag  # a single letter says nothing without what follows it (RFC 4647 3.4)


def wishes_of(document: Mapping[str, Any]) -> Iterator[object]:
    """Yield what an attempt's JSON object says of the person's language, most telling first; it need not be a readable event."""
    request, transaction = document.get("request"), document.get("transaction")

    if isinstance(request, dict):
        yield request.get("language")

    if isinstance(transaction, dict):
        yield transaction.get("locale")
        locales = transaction.get("ui_locales")

        if isinstance(locales, list):
            yield from locales


def _preferred(header: str) -> list[str]:
    """Return the tags of an Accept-Language header, those with the highest weight first; weight 0 says "not this one"."""
    weighted = [
        (float(found[2] or 1), found[1]) for part in header.split(",") if (found := _WEIGHTED.fullmatch(part)) is not None
    ]
    weighted.sort(key=lambda pair: -pair[0])
    return [tag for weight, tag in weighted if weight > 0]
