"""The cache: Auth0's limits, codes and their order (AUTH0.md 1.2), for all actions of a worker."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from gate import Api, Event
from gate.chain.cache import MAX_ENTRIES, MAX_TTL_MS, Cache, CacheRecord, CacheResult

NOW_MS = 1_700_000_000_000
INFINITE, NOT_A_NUMBER = float("inf"), float("nan")


class Clock:
    def __init__(self) -> None:
        self.now_ms: float = NOW_MS

    def __call__(self) -> float:
        return self.now_ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def cache(clock: Clock) -> Cache:
    return Cache(now_ms=clock)


def code(result: CacheResult) -> str | None:
    assert ("error" if result.code else "success") == result.type
    return result.code


def test_a_value_is_there_until_it_expires(cache: Cache, clock: Clock) -> None:
    record = CacheRecord("value", NOW_MS + 500)

    assert CacheResult(type="success", record=record) == cache.set("key", "value", ttl=500)
    clock.now_ms += 500
    assert record == cache.get("key")
    clock.now_ms += 1
    assert cache.get("key") is None
    assert "CacheKeyDoesNotExist" == code(cache.delete("key"))


@pytest.mark.parametrize(
    ("ttl", "expires_at", "lives_ms"),
    [
        (None, None, 15 * 60 * 1000),
        (100, None, 100),
        (100.9, None, 100),
        (None, NOW_MS + 7.5, 7),
        (100, NOW_MS + 50, 50),
        (50, NOW_MS + 100, 50),
        (MAX_TTL_MS + 1, None, MAX_TTL_MS),
        (None, NOW_MS + 10 * MAX_TTL_MS, MAX_TTL_MS),
    ],
)
def test_the_earlier_of_ttl_and_expires_at_counts_and_a_day_at_most(
    cache: Cache, ttl: float | None, expires_at: float | None, lives_ms: int
) -> None:
    record = cache.set("key", "value", ttl=ttl, expires_at=expires_at).record

    assert CacheRecord("value", NOW_MS + lives_ms) == record


@pytest.mark.parametrize(
    ("key", "value", "ttl", "expires_at", "expected"),
    [
        ("k" * 64, "v" * 4096, None, None, None),
        ("k" * 65, "v" * 4097, INFINITE, None, "CacheKeySizeExceeded"),
        ("ß" * 33, "v", None, None, "CacheKeySizeExceeded"),
        ("k", "v" * 4097, INFINITE, None, "CacheValueSizeExceeded"),
        ("k", "ß" * 2049, None, None, "CacheValueSizeExceeded"),
        ("k", "v", INFINITE, 1, "InvalidExpiry"),
        ("k", "v", NOT_A_NUMBER, None, "InvalidExpiry"),
        ("k", "v", 1, NOT_A_NUMBER, "InvalidExpiry"),
        ("k", "v", 0, None, "ItemAlreadyExpired"),
        ("k", "v", -1, NOW_MS + 1000, "ItemAlreadyExpired"),
        ("k", "v", None, NOW_MS, "ItemAlreadyExpired"),
        ("k", "v", 2.0**53, None, "InvalidExpiry"),
        ("k", "v", 10**400, None, "InvalidExpiry"),
        ("k", "v", 1, 2.0**60, None),
    ],
)
def test_what_cannot_be_cached_is_refused_by_the_first_rule_it_breaks(
    cache: Cache, key: str, value: str, ttl: float | None, expires_at: float | None, expected: str | None
) -> None:
    assert expected == code(cache.set(key, value, ttl=ttl, expires_at=expires_at))
    assert (expected is None) == (cache.get(key) is not None)


def test_8192_bytes_fit_and_an_old_value_counts_beside_its_new_one(cache: Cache) -> None:
    assert code(cache.set("a", "v" * 4095)) is None
    assert code(cache.set("b", "v" * 4095)) is None

    assert "CacheSizeExceeded" == code(cache.set("c", ""))
    assert "CacheSizeExceeded" == code(cache.set("a", ""))
    assert code(cache.delete("b")) is None
    assert code(cache.set("a", "v" * 4095)) is None


def test_the_21st_entry_is_refused_until_another_is_gone(cache: Cache, clock: Clock) -> None:
    for number in range(MAX_ENTRIES):
        cache.set(f"k{number}", "v", ttl=10 if number == 5 else 1000)

    assert "MaxSideEffectsExceeded" == code(cache.set("one more", "v"))
    assert code(cache.set("k3", "changed")) is None
    clock.now_ms += 11
    assert code(cache.set("one more", "v")) is None


def test_threads_of_plain_def_actions_can_use_it_at_once(cache: Cache) -> None:
    def hammer(number: int) -> None:
        for _ in range(300):
            cache.set(f"k{number}", "v")
            cache.get(f"k{number}")
            cache.delete(f"k{number}")

    threads = [threading.Thread(target=hammer, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert "<Cache 0 entries>" == repr(cache)


# -- As an action sees it -----------------------------------------------------------------------------------------------


async def test_what_one_action_caches_later_ones_and_later_attempts_read_also_after_a_failure(run: Any, make_action: Any) -> None:
    seen: list[str | None] = []

    async def reads(event: Event, api: Api) -> None:
        record = api.cache.get("key")
        seen.append(record.value if record else None)

    async def writes_and_fails(event: Event, api: Api) -> None:
        api.cache.set("key", "value")
        raise ValueError

    def deletes_in_a_thread(event: Event, api: Api) -> None:
        seen.append(api.cache.delete("key").type)

    chain = await run.chain(reads, make_action(writes_and_fails, on_error="skip"), reads, deletes_in_a_thread, reads)
    await run.once(chain)
    await run.once(chain)

    assert [None, "value", "success", None] * 2 == seen


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda cache: cache.get(1), "api.cache.get: key must be a string, not int"),
        (lambda cache: cache.set("k", None), "api.cache.set: value must be a string, not NoneType"),
        (lambda cache: cache.set("k", "v", ttl="60"), "api.cache.set: ttl must be a number of milliseconds, not str"),
        (
            lambda cache: cache.set("k", "v", expires_at=True),
            "api.cache.set: expires_at must be a number of milliseconds, not bool",
        ),
        (lambda cache: cache.delete(b"k"), "api.cache.delete: key must be a string, not bytes"),
    ],
)
async def test_a_wrong_type_raises_at_the_call(run: Any, call: Any, problem: str) -> None:
    raised: list[str] = []

    async def calls(event: Event, api: Api) -> None:
        try:
            call(api.cache)
        except TypeError as error:
            raised.append(str(error))

    await run(calls)

    assert [problem] == raised


async def test_a_late_call_does_nothing_and_says_so(run: Any) -> None:
    kept: list[Api] = []

    async def keeps(event: Event, api: Api) -> None:
        kept.append(api)
        api.cache.set("key", "value")

    await run(keeps)
    cache = kept[0].cache

    assert cache.get("key") is None
    assert "FailedToSetCacheRecord" == cache.set("key", "other").code
    assert "FailedToDeleteCacheRecord" == cache.delete("key").code
    assert "value" == run.resources.cache.get("key").value
    assert 3 == run.resources.late_calls
