"""Self-clocked batches: while one batch of a key is on its way, the next one fills.

An idle key sends on the next turn of the event loop, so a lone item waits for nothing and a burst travels together
(DESIGN.md section 5).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, Generic, Protocol, TypeVar

Key = TypeVar("Key", bound=Hashable)
Item = TypeVar("Item")


class Spawn(Protocol):
    """Start a task that somebody owns; its failure ends the worker."""

    def __call__(self, coro: Coroutine[Any, Any, None], *, name: str) -> object:
        """Start it under a name."""


class SelfClocked(Generic[Key, Item]):
    """Queues per key, each emptied batch by batch; `send` handles its own failures and may add items again."""

    def __init__(
        self,
        send: Callable[[Key, list[Item]], Awaitable[None]],
        *,
        size_bytes: Callable[[Item], int],
        max_bytes: int,
        spawn: Spawn,
        name: str,
    ) -> None:
        self._send = send
        self._size_bytes = size_bytes
        self._max_bytes = max_bytes
        self._spawn = spawn
        self._name = name
        self._queues: dict[Key, deque[Item]] = {}
        self._sending = 0  # items of the batches that are on their way

    def __len__(self) -> int:
        return self._sending + sum(map(len, self._queues.values()))

    def __repr__(self) -> str:
        return f"<SelfClocked {self._name}: {sum(map(len, self._queues.values()))} queued for {len(self._queues)} keys>"

    def add(self, key: Key, item: Item) -> None:
        """Queue an item; it leaves with the key's next batch."""
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = deque()
            self._spawn(self._pump(key, queue), name=f"{self._name} {key}")
        queue.append(item)

    async def _pump(self, key: Key, queue: deque[Item]) -> None:
        while queue:
            batch = [queue.popleft()]
            room = self._max_bytes - self._size_bytes(batch[0])
            while queue and (room := room - self._size_bytes(queue[0])) >= 0:
                batch.append(queue.popleft())
            self._sending += len(batch)
            await self._send(key, batch)
            self._sending -= len(batch)
        del self._queues[key]
