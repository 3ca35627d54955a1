"""The cluster's topics and their partition counts, for looking up names that come from outside."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Protocol

from aiokafka.admin import AIOKafkaAdminClient

from gate.config import Settings
from gate.errors import KafkaUnavailable
from gate.kafka.connection import REQUEST_TIMEOUT_MS, client_options, describe_topics, mapped_errors


class Fetch(Protocol):
    """Where the list comes from."""

    async def __call__(self) -> dict[str, int]:
        """Return the partition count of every topic; raise KafkaUnavailable."""

    async def close(self) -> None:
        """Let go of connections; the next call makes them anew."""


class TopicList:
    """The cluster's topics and their partition counts, from a cached list of all topics.

    Names from outside are only ever looked up here. A metadata request *for* an unknown name can create the topic, and an
    aiokafka client that was once asked for it goes on asking (KAFKA.md section 4, 21).

    The list is fetched every `refresh_s`, and once more when somebody misses a name, but for misses, too, at most every
    `refresh_s`, whatever the number of unknown names. While Kafka is away the last list stays in force.
    """

    def __init__(
        self,
        settings: Settings,
        bootstrap: str,
        *,
        refresh_s: float = 30.0,
        clock: Callable[[], float] = time.monotonic,
        fetch: Fetch | None = None,
    ) -> None:
        self._fetch = fetch or FetchTopics(settings, bootstrap)
        self._refresh_s = refresh_s
        self._clock = clock
        self._counts: dict[str, int] = {}
        self._missed_at = float("-inf")  # when a miss last led to a refresh
        self._failed: KafkaUnavailable | None = None  # the newest refresh, if it failed
        self._wanted = asyncio.Event()
        self._refreshed = asyncio.Event()
        self._fetched = asyncio.Condition()  # told of every refresh that has ended, well or not
        self._begun = self._ended = 0  # refreshes
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<TopicList {len(self._counts)} topics{', stale' if self._failed else ''}>"

    async def start(self) -> None:
        """Fetch the list and keep it fresh; raise KafkaUnavailable if there is no first one."""
        await self._refresh()
        if self._failed:
            await self.stop()
            raise self._failed
        self._run()

    async def stop(self) -> None:
        """Stop refreshing; what is cached can still be looked up."""
        task, self._task = self._task, None
        if task:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await self._fetch.close()

    def partitions(self, topic: str, *, at_least: int = 1) -> int | None:
        """Return the topic's partition count as far as known, at once; None if there is no such topic.

        A topic that is not there, or has fewer partitions than `at_least`, may be newer than the list: this is a miss, and
        leads to a refresh in the background. `find` waits for it.
        """
        count = self._counts.get(topic)
        if (count is None or count < at_least) and self._clock() - self._missed_at >= self._refresh_s:
            self._missed_at = self._clock()
            self._refreshed.clear()
            self._wanted.set()
        return count

    async def find(self, topic: str, *, at_least: int = 1) -> int | None:
        """Return the topic's partition count, after the refresh that a miss leads to.

        Raises KafkaUnavailable where a miss proves nothing because the newest refresh failed.
        """
        count = self.partitions(topic, at_least=at_least)
        if count is not None and count >= at_least:
            return count
        if self._task and not self._task.done():
            await self._refreshed.wait()
        count = self._counts.get(topic)
        if self._failed and (count is None or count < at_least):
            raise self._failed
        return count

    @property
    def next_refresh(self) -> int:
        """The number of the refresh that begins next."""
        return self._begun + 1

    async def refreshed(self, due: int) -> None:
        """Wait for the end of a refresh, by its number; without a miss that may take `refresh_s`."""
        async with self._fetched:
            await self._fetched.wait_for(lambda: self._ended >= due)

    def _run(self) -> None:
        self._task = task = asyncio.create_task(self._keep_fresh(), name="topic list")
        task.add_done_callback(lambda ended: self._run() if ended is self._task else None)  # cancelled, but not by `stop`

    async def _keep_fresh(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._refresh_s):
                    await self._wanted.wait()
            self._wanted.clear()
            await self._refresh()

    async def _refresh(self) -> None:
        self._begun += 1
        try:
            self._counts = await self._fetch()
            self._failed = None
        except KafkaUnavailable as error:
            self._failed = error
        finally:
            if not self._wanted.is_set():
                self._refreshed.set()
            async with self._fetched:
                self._ended = self._begun
                self._fetched.notify_all()


class FetchTopics:
    """Ask the cluster for all topics, with a client of its own that is made anew after a failure.

    An aiokafka client never goes back to the bootstrap servers: one that has lost all brokers it knew stays lost.
    """

    def __init__(self, settings: Settings, bootstrap: str) -> None:
        self._options = client_options(settings, bootstrap)
        self._bootstrap = bootstrap
        self._admin: AIOKafkaAdminClient | None = None

    async def __call__(self) -> dict[str, int]:
        """Return the partition count of every topic; raise KafkaUnavailable."""
        try:
            with mapped_errors(self._bootstrap, "list topics"):
                if self._admin is None:
                    self._admin = AIOKafkaAdminClient(**self._options, request_timeout_ms=REQUEST_TIMEOUT_MS)
                    await self._admin.start()
                return {name: len(topic["partitions"]) for name, topic in (await describe_topics(self._admin)).items()}
        except BaseException:  # cancelled, too: a client in the middle of something is not used again
            await self.close()
            raise

    async def close(self) -> None:
        """Close the client; the next call makes a new one."""
        admin, self._admin = self._admin, None
        if admin:
            await admin.close()
