"""The cache that the actions of a worker share: small, best effort, and gone with the worker (DESIGN.md section 3, rule 12).

Limits and codes are Auth0's, in the order in which its own implementation checks them (AUTH0.md 1.2).
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

MAX_KEY_BYTES: Final = 64
MAX_VALUE_BYTES: Final = 4096
MAX_TOTAL_BYTES: Final = 8192
MAX_ENTRIES: Final = 20
DEFAULT_TTL_MS: Final = 15 * 60 * 1000
MAX_TTL_MS: Final = 24 * 60 * 60 * 1000
MAX_SAFE_INTEGER: Final = 2**53 - 1
"""The largest integer that JavaScript counts exactly: an action of either language can read every expiry."""


class CacheError(StrEnum):
    """Why the cache did not do what it was asked."""

    KEY_SIZE = "CacheKeySizeExceeded"
    VALUE_SIZE = "CacheValueSizeExceeded"
    TOTAL_SIZE = "CacheSizeExceeded"
    INVALID_EXPIRY = "InvalidExpiry"  # not finite, or no safe integer
    ALREADY_EXPIRED = "ItemAlreadyExpired"
    TOO_MANY = "MaxSideEffectsExceeded"  # the 21st entry
    NO_SUCH_KEY = "CacheKeyDoesNotExist"
    NOT_SET = "FailedToSetCacheRecord"  # the action had ended
    NOT_DELETED = "FailedToDeleteCacheRecord"  # the action had ended


@dataclass(frozen=True, slots=True)
class CacheRecord:
    """A cached value."""

    value: str
    expires_at: int  # ms since the epoch


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheResult:
    """What became of `set` or `delete`: `code` says why not, `record` is what was stored."""

    type: Literal["success", "error"]
    code: CacheError | None = None
    record: CacheRecord | None = None


DELETED: Final = CacheResult(type="success")


def refused(code: CacheError) -> CacheResult:
    """Return the result of a call that did nothing."""
    return CacheResult(type="error", code=code)


class Cache:
    """The entries. Plain `def` actions use it from their threads, so every method holds a lock."""

    def __init__(self, *, now_ms: Callable[[], float] = lambda: time.time() * 1000) -> None:
        self._now_ms = now_ms
        self._entries: dict[str, CacheRecord] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"<Cache {len(self._entries)} entries>"

    def get(self, key: str) -> CacheRecord | None:
        """Return the record of a key; None where there is none or it has expired."""
        with self._lock:
            record = self._entries.get(key)
            return None if record is None or record.expires_at < self._now_ms() else record

    def set(self, key: str, value: str, *, ttl: float | None = None, expires_at: float | None = None) -> CacheResult:
        """Store a value until the earlier of `ttl` (ms from now) and `expires_at` (ms since the epoch), a day at most."""
        with self._lock:
            now_ms = math.floor(self._now_ms())
            self._drop_expired(now_ms)
            fault = self._too_large(key, value)

            if fault is not None:
                return refused(fault)

            expiry = _expiry(now_ms, ttl, expires_at)

            if isinstance(expiry, CacheError):
                return refused(expiry)

            if key not in self._entries and len(self._entries) >= MAX_ENTRIES:
                return refused(CacheError.TOO_MANY)

            record = self._entries[key] = CacheRecord(value, min(expiry, now_ms + MAX_TTL_MS))
            return CacheResult(type="success", record=record)

    def delete(self, key: str) -> CacheResult:
        """Remove a key."""
        with self._lock:
            self._drop_expired(self._now_ms())
            return refused(CacheError.NO_SUCH_KEY) if self._entries.pop(key, None) is None else DELETED

    def _drop_expired(self, now_ms: float) -> None:
        for key in [key for key, record in self._entries.items() if record.expires_at < now_ms]:
            del self._entries[key]

    def _too_large(self, key: str, value: str) -> CacheError | None:
        key_bytes, value_bytes = _bytes(key), _bytes(value)

        if key_bytes > MAX_KEY_BYTES:
            return CacheError.KEY_SIZE

        if value_bytes > MAX_VALUE_BYTES:
            return CacheError.VALUE_SIZE

        # A key's old value counts beside its new one, as at Auth0.
        held = sum(_bytes(held) + _bytes(record.value) for held, record in self._entries.items())
        return CacheError.TOTAL_SIZE if held + key_bytes + value_bytes > MAX_TOTAL_BYTES else None


def _expiry(now_ms: int, ttl: float | None, expires_at: float | None) -> int | CacheError:
    try:
        finite = all(given is None or math.isfinite(given) for given in (ttl, expires_at))
    except OverflowError:  # an integer beyond every float
        finite = False

    if not finite:
        return CacheError.INVALID_EXPIRY

    given = [math.floor(at) for at in (None if ttl is None else now_ms + ttl, expires_at) if at is not None]
    expiry = min(given, default=now_ms + DEFAULT_TTL_MS)

    if expiry <= now_ms:
        return CacheError.ALREADY_EXPIRED

    return expiry if expiry <= MAX_SAFE_INTEGER else CacheError.INVALID_EXPIRY


def _bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))
