"""Several brokers on loopback that are one cluster, so that some of them can be lost while the others go on."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from itertools import islice
from types import TracebackType
from typing import Any, Final, Self

from aiokafka.admin import AIOKafkaAdminClient

from gate.kafka.distribution import new_id
from gate.kafka.embedded import HOST, EmbeddedKafka, free_ports

SAFE: Final = {
    "default.replication.factor": "3",
    "min.insync.replicas": "2",
    "offsets.topic.replication.factor": "3",
    "unclean.leader.election.enable": "false",
}
"""What condition C1 of the protocol asks for."""

QUICK: Final = {
    "broker.session.timeout.ms": "3000",  # a dead broker's leaders move after so long
    "controller.quorum.election.timeout.ms": "500",
    "controller.quorum.election.backoff.max.ms": "500",
    "controller.quorum.fetch.timeout.ms": "1500",  # a dead controller's successor is elected after so long
    "controller.quorum.request.timeout.ms": "1500",
    "replica.lag.time.max.ms": "3000",  # so long acks=all waits for a replica that is dead and not yet fenced
    "replica.fetch.wait.max.ms": "200",
}
"""Failover in seconds; Kafka's own values take up to half a minute."""


class Cluster:
    """So many nodes, numbered from 1; each is broker and controller, and the controllers' quorum is all of them.

    A context manager like EmbeddedKafka, and like it blocking: in async code its methods go in threads; those that ask the
    cluster something are coroutines.
    """

    def __init__(self, nodes: int = 3, *, heap_mb: int = 256, properties: dict[str, str] | None = None) -> None:
        ports = list(islice(free_ports(), 2 * nodes))
        places = {number: (ports.pop(), ports.pop()) for number in range(1, nodes + 1)}
        voters = ",".join(f"{number}@{HOST}:{controller}" for number, (_, controller) in places.items())
        common = {**SAFE, **QUICK, "controller.quorum.voters": voters, **(properties or {})}
        identity = new_id()
        self.nodes = {
            number: EmbeddedKafka(
                port=port,
                properties={
                    **common,
                    "node.id": str(number),
                    "listeners": f"PLAINTEXT://{HOST}:{port},CONTROLLER://{HOST}:{controller}",
                },
                cluster_id=identity,
                heap_mb=heap_mb,
            )
            for number, (port, controller) in places.items()
        }
        self.bootstrap = ",".join(f"{HOST}:{port}" for port, _ in places.values())

    def __repr__(self) -> str:
        running = [str(number) for number, node in self.nodes.items() if node.running]
        return f"<Cluster at {self.bootstrap}, running {', '.join(running) or 'none'} of {len(self.nodes)}>"

    def __enter__(self) -> Self:
        try:
            self._at_once(EmbeddedKafka.start, self.nodes)  # one alone has no quorum and never comes up
        except BaseException:
            self._at_once(EmbeddedKafka.stop, self.nodes)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._at_once(EmbeddedKafka.stop, self.nodes)

    def _at_once(self, do: Any, numbers: Iterable[int]) -> None:
        with ThreadPoolExecutor(len(self.nodes), thread_name_prefix="cluster") as threads:
            list(threads.map(do, (self.nodes[number] for number in numbers)))

    # -- Faults -----------------------------------------------------------------------------------------------------------

    def kill(self, *numbers: int) -> None:
        """End nodes with SIGKILL; data and addresses stay."""
        self._at_once(EmbeddedKafka.kill, numbers)

    def start(self, *numbers: int) -> None:
        """Start nodes that were killed, all at once; return when they serve."""
        self._at_once(EmbeddedKafka.start, numbers)

    def restart(self, number: int) -> None:
        """Shut a node down in order, its leaders moved first, and start it again."""
        self.nodes[number].restart()

    # -- Questions --------------------------------------------------------------------------------------------------------

    @asynccontextmanager
    async def _admin(self) -> AsyncIterator[AIOKafkaAdminClient]:
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=5000)
        await admin.start()
        try:
            yield admin
        finally:
            await admin.close()

    async def leader_of(self, topic: str, partition: int) -> int:
        """Return the node that leads a partition, -1 where none does; raise KafkaError while nobody answers."""
        async with self._admin() as admin:
            (found,) = await admin.describe_topics([topic])
        return next(int(place["leader"]) for place in found["partitions"] if place["partition"] == partition)

    async def coordinator_of(self, group: str) -> int:
        """Return the node that coordinates a group; raise KafkaError while none does."""
        async with self._admin() as admin:
            return int(await admin.find_coordinator(group))

    async def in_sync(self) -> bool:
        """Tell whether every replica of every partition is in sync, so that any node may go; raise KafkaError as above."""
        async with self._admin() as admin:
            topics = await admin.describe_topics()
        return all(len(place["isr"]) == len(place["replicas"]) for topic in topics for place in topic["partitions"])
